"""What the ONNX checker says of a model, so that a result is not blamed for what the dense one has as well.

Runtimes run models that the checker refuses: operators that it does not know, outputs declared with another
rank than they have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import onnx
import onnx_ir as ir

from obs_onnx.io.onnx_file import serialize
from obs_onnx.io.tensors import size_of
from obs_onnx.passes.printable import one_line
from obs_onnx.passes.shapes.infer_shapes import without_data

__all__ = ["complaints", "new_complaints"]

_CONTEXT = "==> Context"
_NUMBERS = re.compile(r"\d+")
_LOOKED_AT_BYTES = 1 << 26


def complaints(model: ir.Model) -> tuple[str, ...]:
    """What is wrong with the structure, at the first place, and with the shapes, at all places.

    Where there are many weights, of which a message would hold several copies, their data is not looked at.
    """
    weighty = size_of(model) > _LOOKED_AT_BYTES
    proto = ir.to_proto(without_data(model)) if weighty else onnx.load_from_string(serialize(model))
    return (*_said(onnx.checker.check_model, proto), *_said(_infer, proto))


def new_complaints(found: Collection[str], known: Collection[str]) -> list[str]:
    """Those of ``found`` that say something else than all of ``known``, whatever the sizes in them."""
    old = {_NUMBERS.sub("", one) for one in known}
    return [one for one in found if _NUMBERS.sub("", one) not in old]


def _infer(proto: onnx.ModelProto) -> None:
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)


def _said(check: Callable[[onnx.ModelProto], object], proto: onnx.ModelProto) -> tuple[str, ...]:
    try:
        check(proto)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        lines = str(error).partition(_CONTEXT)[0].splitlines()
        return tuple(one_line(line) for line in lines if line.strip())
    return ()
