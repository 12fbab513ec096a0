"""Newer operator versions, where rules need them."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx_ir as ir

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import ModelError, reason
from obs_onnx.passes.graph.emitter import OLDEST
from obs_onnx.passes.graph.parameters import hold_small

__all__ = ["modernize"]


_NEW_ENOUGH = 13
_HELD_BYTES = 1024  # of constants that the converter may want to see


def modernize(model: ir.Model, form: Callable[[ir.Model], ir.Model] = canonicalize) -> ir.Model:
    """``model`` itself, or where its opset is older than 11 a copy in opset 13, brought to ``form``.

    Raises:
        ModelError: the converter of ONNX does not know one of its operators.
    """
    if model.graph.opset_imports.get("", _NEW_ENOUGH) >= OLDEST:
        return model
    try:
        copy = model.clone()
        hold_small(copy, _HELD_BYTES)
        proto = onnx.version_converter.convert_version(ir.to_proto(copy), _NEW_ENOUGH)
    except Exception as error:  # the C++ side raises several kinds
        raise ModelError(
            f"gradients need opset {OLDEST} and the model cannot be converted: {reason(error)}"
        ) from error
    return form(ir.from_proto(proto))
