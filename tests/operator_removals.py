"""Removal of channels on the operator tests that come with ``onnx``, against the silenced model.

In each model of :func:`operator_suite.summed` every axis of every float input may lose elements, as far as
the operator's rule lets it. From each group some channels go, then some from all groups at once, and the
smaller model has to give what the dense one gives with these channels silenced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx.reference import ReferenceEvaluator
from operator_suite import FLOATS, OperatorCase, cases, summed

from obs_onnx.io.onnx_file import from_proto
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, Keep, couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import ObsOnnxError

__all__ = ["Removal", "removals"]

Verdict = Literal["equal", "wrong", "failed", "refused", "frozen", "left out"]
Run = Callable[[ir.Model | onnx.ModelProto], np.ndarray]


@dataclass(frozen=True)
class Removal:
    """What came of one removal, or of a model in which none is possible.

    Attributes:
        name: of the case, with ``.constants`` where axes, sizes and indices are constants, and ``.held``
            where the weights are the operator's own inputs.
        operators: types of the case's nodes.
        verdict: ``equal``; ``wrong`` numbers; ``failed`` by an exception; ``refused`` with a sentence;
            ``frozen``: nothing may be removed; ``left out``: there is nothing to compare.
        reason: why, where it is not equal.
    """

    name: str
    operators: frozenset[str]
    verdict: Verdict
    reason: str = ""


def removals(select: Callable[[OperatorCase], bool] = lambda case: True) -> Iterator[Removal]:
    """All removals of the selected cases.

    Functions written out (``*_expanded``) are left to the operators that they are written in.
    """
    for case in cases():
        if not case.name.endswith("_expanded") and "_expanded_" not in case.name and select(case):
            yield from _of_case(case, held=False, constants=False)
            yield from _of_case(case, held=False, constants=True)
            yield from _of_case(case, held=True, constants=True)


def _of_case(case: OperatorCase, held: bool, constants: bool) -> Iterator[Removal]:
    name = case.name + ".constants" * constants + ".held" * held
    operators = frozenset(node.op_type for node in case.model.graph.node)

    def outcome(verdict: Verdict, reason: object = "") -> Removal:
        return Removal(name, operators, verdict, " ".join(str(reason).split())[:200])

    rng = np.random.default_rng(0)
    proto, feeds, weights = summed(case, held, rng, constants) if case.is_plain else (None, {}, [])
    others = [value for value in case.model.graph.input if value.type.tensor_type.elem_type not in FLOATS]
    if constants and not held and case.is_plain and not others:
        return
    if proto is None or not weights:
        yield outcome("left out", "no tensors of floating-point numbers")
        return
    _sober(proto, feeds)

    def run(model: ir.Model | onnx.ModelProto) -> np.ndarray:
        return _run(model if isinstance(model, onnx.ModelProto) else ir.to_proto(model), feeds)

    try:
        run(proto)
    except Exception as error:  # whatever the two runtimes raise
        yield outcome("left out", f"the dense model does not run: {error}")
        return
    try:
        model = prepare(from_proto(proto))
        coupling = couple(model)
    except ObsOnnxError as error:
        yield outcome("refused", error)
        return
    if not coupling.groups:
        reasons = {frozen.reason for frozen in coupling.frozen}
        yield outcome("frozen", "; ".join(sorted(reasons)))
    for keep in _keeps(coupling, rng):
        yield outcome(*_compare(run, coupling, keep))


def _keeps(coupling: Coupling, rng: np.random.Generator) -> list[Keep]:
    """Masks for each group by itself, and for all together."""
    keeps: list[Keep] = []
    for group in coupling.groups:
        keep = rng.random(group.n) < 0.6
        keep[rng.permutation(group.n)[:2]] = False, True
        keeps.append({group.id: keep})
    together = {group: mask for keep in keeps for group, mask in keep.items()}
    return [*keeps, together] if len(keeps) > 1 else keeps


def _compare(run: Run, coupling: Coupling, keep: Keep) -> tuple[Verdict, object]:
    names = ", ".join(coupling.groups[group].name for group in keep)
    try:
        reference = run(silence(coupling.model, keep, coupling))
        small = coupling.model.clone()
        RemoveChannels(keep, coupling.of(small)).call(small)
        found = run(small)
    except Exception as error:  # any is a fault
        return "failed", f"{names}: {error!r}"
    tolerance = 3e-2 if reference.dtype == np.float16 else 1e-4
    if np.allclose(found, reference, rtol=tolerance, atol=tolerance, equal_nan=True):
        return "equal", ""
    return "wrong", f"{names}: {found} instead of {reference}"


def _sober(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> None:
    """Dropout in training mode passes its input on: what it drops depends on how many elements there are."""
    training = {
        node.input[2] for node in proto.graph.node if node.op_type == "Dropout" and len(node.input) > 2
    }
    for name in training & set(feeds):
        feeds[name][...] = False
    for tensor in proto.graph.initializer:
        if tensor.name in training:
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(False), tensor.name))
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.output[0] in training:
            node.attribute[0].t.CopyFrom(onnx.numpy_helper.from_array(np.array(False)))


def _run(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> np.ndarray:
    """The loss by onnxruntime, or by the reference evaluator where that has no kernel."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    fed = {value.name: feeds[value.name] for value in proto.graph.input if value.name in feeds}
    try:
        session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, fed)[0])
    except Exception:  # onnxruntime raises several kinds
        return np.asarray(ReferenceEvaluator(proto).run(None, fed)[0])
