"""The form in which channels are looked for, on the operator tests that come with ``onnx``.

Every model has to load, and its form has to give the expected outputs wherever a runtime gives them for the
model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator
from operator_suite import OperatorCase, cases

from obs_onnx.io.onnx_file import from_proto
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.errors import ObsOnnxError

__all__ = ["Form", "forms"]

Verdict = Literal["equal", "wrong", "failed", "refused", "left out"]


@dataclass(frozen=True)
class Form:
    """What came of one case.

    Attributes:
        name: of the case.
        verdict: ``equal``; ``wrong`` numbers; ``failed`` by an exception; ``refused`` with a sentence;
            ``left out``: no runtime here gives the expected outputs for the model itself.
        reason: why, where it is not equal.
    """

    name: str
    verdict: Verdict
    reason: str = ""


def forms(select: Callable[[OperatorCase], bool] = lambda case: True) -> Iterator[Form]:
    """The forms of the selected cases."""
    for case in cases():
        if select(case):
            verdict, reason = _of_case(case)
            yield Form(case.name, verdict, " ".join(reason.split())[:200])


def _of_case(case: OperatorCase) -> tuple[Verdict, str]:
    try:
        model = prepare(from_proto(_copy(case.model)))
    except ObsOnnxError as error:
        return "refused", str(error)
    except Exception as error:  # any is a fault
        return "failed", repr(error)
    dense = next((run for run in _RUNS if _gives(run, case.model, case)), None)
    if dense is None:
        return "left out", "no runtime here gives the expected outputs"
    proto = ir.to_proto(model)
    if _gives(dense, proto, case):
        return "equal", ""
    try:
        return "wrong", str(dense(proto, case.feeds))
    except Exception as error:  # the runtimes raise many kinds
        return "failed", repr(error)


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _runtime(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> Sequence[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def _reference(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> Sequence[Any]:
    return list(ReferenceEvaluator(proto).run(None, dict(feeds)))


_RUNS = (_runtime, _reference)


def _gives(
    run: Callable[[onnx.ModelProto, Mapping[str, Any]], Sequence[Any]],
    proto: onnx.ModelProto,
    case: OperatorCase,
) -> bool:
    """Whether ``run`` gives the expected outputs of the case."""
    try:
        found = run(proto, case.feeds)
    except Exception:  # the runtimes raise many kinds
        return False
    wanted = [case.expected[value.name] for value in case.model.graph.output]
    return len(found) == len(wanted) and all(
        _same(y, expected, case) for y, expected in zip(found, wanted, strict=True)
    )


def _same(y: Any, wanted: Any, case: OperatorCase) -> bool:
    if wanted is None or isinstance(wanted, list):
        alike = type(y) is type(wanted) and (wanted is None or len(y) == len(wanted))
        return alike and all(_same(a, b, case) for a, b in zip(y or (), wanted or (), strict=True))
    y, wanted = np.asarray(y), np.asarray(wanted)
    if y.shape != wanted.shape:
        return False
    if wanted.dtype.kind in "OSU":
        return bool((y.astype(str) == wanted.astype(str)).all())
    wide = np.complex128 if wanted.dtype.kind == "c" else np.float64
    tolerance = {"rtol": max(case.rtol, 1e-3), "atol": max(case.atol, 1e-5)}
    return bool(np.allclose(y.astype(wide), wanted.astype(wide), equal_nan=True, **tolerance))
