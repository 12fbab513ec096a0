"""Measure what pruning did, and check every claim before anything is written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.model_file import serialize
from obs_onnx.passes.concrete import captured
from obs_onnx.passes.coupling import Coupling, Keep
from obs_onnx.passes.errors import DataError, ModelError, VerificationError
from obs_onnx.passes.layers import Layer
from obs_onnx.passes.segments import extract
from obs_onnx.passes.silence import silence
from obs_onnx.runtimes.base import Runtime, Session
from obs_onnx.solvers import Pattern, follows
from obs_onnx.unfold import outputs
from obs_onnx.walk import Values, open_part

__all__ = [
    "Measured",
    "check_batches",
    "check_model",
    "check_removal",
    "check_zeros",
    "decided_outputs",
    "measure",
]

_LATER_DECISION = 0.1  # relative difference of what a decision rests on that has others before it
_DECISIONS = {
    "ArgMax",
    "ArgMin",
    "Bernoulli",
    "Ceil",
    "Compress",
    "DynamicQuantizeLinear",
    "Equal",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "Hardmax",
    "Less",
    "LessOrEqual",
    "NonMaxSuppression",
    "NonZero",
    "QuantizeLinear",
    "Round",
    "Sign",
    "TopK",
    "Unique",
}


@dataclass(frozen=True)
class Measured:
    """Differences between a pruned and the dense model on held-out data.

    Attributes:
        layer_errors: relative error of each layer's output inside the pruned network, all uses together.
        isolated_errors: ``||(W' - W) X||_F`` of each layer on the dense model's inputs, over all held-out
            samples (the square root of the paper's layer-wise error times the number of samples).
        output_norms: ``||y||_F`` of each output of the dense model.
    """

    layer_errors: Mapping[str, float]
    isolated_errors: Mapping[str, float]
    output_norms: Mapping[str, float]


def measure(
    runtime: Runtime, dense: ir.Model, pruned: ir.Model, layers: Sequence[Layer], held_out: Iterable[Values]
) -> Measured:
    """Compare layer by layer; a batch's activations are held at a time."""
    uses = [(layer, use) for layer in layers for use in layer.uses]
    xs = list(dict.fromkeys(use.x for _, use in uses))
    ys = list(dict.fromkeys(use.y for _, use in uses))
    names = [str(value.name) for value in dense.graph.inputs if not value.is_initializer()]
    ends = [str(value.name) for value in dense.graph.outputs]
    produced = [name for name in dict.fromkeys(xs + ys + ends) if name not in names]
    whole = _session(runtime, dense, names, produced)
    inside = _session(runtime, pruned, names, ys)
    alone: list[Session] = []
    error = {layer.name: 0.0 for layer in layers}
    isolated, energy = dict(error), dict(error)
    norms = dict.fromkeys(ends, 0.0)
    for feed in held_out:
        values = {**feed, **_run(whole, feed)}
        actual = _run(inside, feed)
        alone = alone or _alone(runtime, pruned, xs, ys, values)
        single = {name: y for session in alone for name, y in _run(session, values).items()}
        for name in ends:
            norms[name] += _energy(_finite(values[name]))
        for layer, use in uses:
            y, goi = values[use.y], layer.layout.goi
            error[layer.name] += _energy(_difference(actual[use.y], y))
            isolated[layer.name] += _energy(_difference(single[use.y], y))
            energy[layer.name] += _energy(_centred(y, layer, goi))
    relative = {
        name: float(np.sqrt(value / energy[name])) if energy[name] else 0.0 for name, value in error.items()
    }
    return Measured(
        relative,
        {name: float(np.sqrt(value)) for name, value in isolated.items()},
        {name: float(np.sqrt(value)) for name, value in norms.items()},
    )


def _centred(y: NDArray[Any], layer: Layer, goi: tuple[int, int, int]) -> NDArray[Any]:
    y_GNO = outputs(y, layer.uses[0].geometry, goi).astype(np.float64)
    return np.asarray(y_GNO - y_GNO.mean(axis=1, keepdims=True))


def _alone(
    runtime: Runtime, model: ir.Model, xs: Sequence[str], ys: Sequence[str], values: Values
) -> list[Session]:
    """Sessions that give every layer its ``x`` from outside, those whose ``y`` is a layer's ``x`` apart."""
    apart = [y for y in ys if y not in set(xs)]
    cuts = [(xs, apart)] if apart else []
    cuts += [([x for x in xs if x != y], [y]) for y in ys if y in set(xs)]
    return [open_part(runtime, extract(model, starts, ends), values) for starts, ends in cuts]


def _session(runtime: Runtime, model: ir.Model, inputs: Sequence[str], outs: Sequence[str]) -> Session:
    return open_part(runtime, extract(model, inputs, outs))


def _run(session: Session, values: Values) -> dict[str, NDArray[Any]]:
    return session.run({spec.name: values[spec.name] for spec in session.inputs})


def _difference(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """``a - b`` in float64; equal infinities (masked scores) do not differ."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray(np.subtract(a, b, out=np.zeros_like(a), where=a != b))


def _finite(y: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(y), y, 0) if y.dtype.kind not in "OSU" else y


def _energy(y: NDArray[Any]) -> float:
    return float(np.sum(np.square(y.astype(np.float64, copy=False)))) if y.dtype.kind not in "OSUb" else 0.0


def check_zeros(
    model: ir.Model, layers: Sequence[Layer], masks: Mapping[str, NDArray[np.bool_]], pattern: Pattern
) -> dict[str, int]:
    """Zero weights of each layer, counted in the model itself.

    Args:
        model: the pruned one.
        layers: that may have lost weights.
        masks: kept weights of each layer in canonical form; a layer without an entry promised nothing.
        pattern: that the masks must follow (a kept weight may be zero all the same).

    Raises:
        VerificationError: a removed weight is not zero, or a mask breaks the pattern.
    """
    zeros: dict[str, int] = {}
    for layer in layers:
        tensor = model.graph.initializers[layer.name].const_value
        assert tensor is not None
        w_GOI = layer.layout.to_matrix(tensor.numpy())
        zeros[layer.name] = int(np.count_nonzero(w_GOI == 0))
        mask = masks.get(layer.name)
        if mask is None:
            continue
        if wrong := np.count_nonzero(w_GOI[~mask]):
            raise VerificationError(f"layer {layer.name} has {wrong} weights that should be zero and are not")
        if not mask.all() and not follows(mask, pattern):
            raise VerificationError(f"layer {layer.name} breaks the pattern {pattern}")
    return zeros


def check_model(runtime: Runtime, model: ir.Model, feed: Values, expected: Values) -> None:
    """The full ONNX checker, a load by the runtime, and a run whose outputs are the expected ones.

    Raises:
        VerificationError: any of the three fails.
    """
    import onnx

    try:
        onnx.checker.check_model(serialize(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"the pruned model does not pass the ONNX checker: {error}") from error
    except ModelError as error:
        raise VerificationError(f"the pruned model cannot be checked: {error}") from error
    try:
        session = open_part(runtime, model.clone())
    except ModelError as error:
        raise VerificationError(f"the pruned model does not load: {error}") from error
    found = _run(session, feed)
    if wrong := [name for name, y in found.items() if not _same(y, expected[name])]:
        again = _run(session, feed)
        for name in wrong:
            if _same(found[name], again[name]):  # otherwise it differs from run to run
                raise VerificationError(f"output {name} of the written model differs from the measured one")


def _same(y: NDArray[Any], reference: NDArray[Any]) -> bool:
    if y.dtype.kind != "f":
        return bool(np.array_equal(y, reference))
    finite = np.abs(reference[np.isfinite(reference)]).astype(np.float64)
    scale = float(np.max(finite, initial=0.0)) or 1.0
    tolerance = 1e-4 if y.dtype.itemsize >= 4 else 1e-2
    return y.shape == reference.shape and np.allclose(
        y.astype(np.float64), reference, rtol=0, atol=tolerance * scale, equal_nan=True
    )


def check_removal(
    runtime: Runtime, dense: Coupling, keep: Keep, small: ir.Model, feed: Values
) -> tuple[float, float]:
    """Compare a model without channels to the one of full size in which they have no effect.

    Outputs that differ from run to run are left out. Behind a decision (the largest score, what lies over a
    threshold) rounding may turn the outputs into others: then the decisions have to rest on equal numbers.

    Args:
        runtime: where both run.
        dense: of the prepared model with the weights of ``small`` in their places.
        keep: channels that ``small`` still has.
        small: without the others.
        feed: what both get.

    Returns:
        Largest relative difference of an output (Frobenius norms), and what is allowed.

    Raises:
        VerificationError: it is larger.
    """
    silenced = silence(dense.model, keep, dense)
    reference = runtime.session(serialize(silenced))
    expected = _run(reference, feed)
    found = _run(runtime.session(serialize(small)), feed)
    tolerance = 3e-2 if any(_is_short(y) for y in expected.values()) else 1e-3
    off = {name: _relative(found[name], y) for name, y in expected.items()}
    if wrong := {name for name, difference in off.items() if not difference <= tolerance}:
        again = _run(reference, feed)
        excused = {name for name in wrong if not _relative(again[name], expected[name]) <= tolerance / 10}
        decided = decided_outputs(silenced) & wrong
        if decided and _decide_alike(runtime, silenced, small, feed, tolerance, _Kept(dense, keep)):
            excused |= decided
        for name in wrong - excused:
            if found[name].shape != expected[name].shape:
                raise VerificationError(
                    f"output {name} has shape {found[name].shape} without the channels, "
                    f"not {expected[name].shape}"
                )
        off = {name: difference for name, difference in off.items() if name not in excused}
    worst = max(off.values(), default=0.0)
    if not worst <= tolerance:
        raise VerificationError(
            f"the smaller model differs by {worst:.1e} from the dense one with the channels silenced"
        )
    return worst, tolerance


def _is_short(y: NDArray[Any]) -> bool:
    return y.dtype.kind not in "OSUbiu" and y.dtype.itemsize < 4


def _relative(y: NDArray[Any], reference: NDArray[Any]) -> float:
    """Relative difference (Frobenius norms); 0 of what holds no fractions, inf between different shapes."""
    if y.shape != reference.shape:
        return float("inf")
    if reference.dtype.kind in "OSUbiu":
        return 0.0
    a, b = y.astype(np.float64), reference.astype(np.float64)
    norm = np.sqrt(_energy(_finite(b))) or 1.0
    return float(np.sqrt(_energy(np.where(np.isnan(a) & np.isnan(b), 0.0, _difference(a, b)))) / norm)


class _Kept:
    """Cuts values of the dense model to the channels that stay."""

    def __init__(self, coupling: Coupling, keep: Keep) -> None:
        self._coupling, self._alive = coupling, coupling.alive(keep)
        self._names = {str(value.name): value for value in coupling.graph.labels}

    def __call__(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        axes = self._coupling.axes(self._names[name]) if name in self._names else None
        for axis, labels in enumerate(axes or ()):
            if not (stays := self._alive(labels)).all():
                array = array.compress(stays, axis=axis)
        return array


def _decide_alike(
    runtime: Runtime, silenced: ir.Model, small: ir.Model, feed: Values, tolerance: float, kept: _Kept
) -> bool:
    """Whether what decisions rest on is equal in both models, as far as both have it.

    Behind a first decision that turned out otherwise, the next ones need only be much the same.
    """
    here, there = ({str(v.name) for node in model.graph for v in node.outputs} for model in (silenced, small))
    inputs = [str(value.name) for value in silenced.graph.inputs if not value.is_initializer()]
    behind = _behind_decisions(silenced)
    limits = {
        str(value.name): _LATER_DECISION if value in behind else tolerance
        for node in silenced.graph
        if node.op_type in _DECISIONS
        for value in node.inputs
        if value is not None
        and str(value.name) in here & there
        and (value.dtype is None or value.dtype.is_floating_point())
    }
    if not limits:
        return False
    first, second = (
        _run(open_part(runtime, extract(model, inputs, limits)), feed) for model in (silenced, small)
    )
    return all(_relative(second[name], kept(name, y)) <= limits[name] for name, y in first.items())


def decided_outputs(model: ir.Model) -> set[str]:
    """Outputs that follow from a decision taken on numbers: an index, a comparison, a rounded number."""
    behind = _behind_decisions(model)
    return {str(value.name) for value in model.graph.outputs if value in behind}


def _behind_decisions(model: ir.Model) -> set[ir.Value]:
    behind: set[ir.Value] = set()
    for node in model.graph:
        if node.op_type in _DECISIONS or any(value in behind for value in (*node.inputs, *captured(node))):
            behind.update(node.outputs)
    return behind


def check_batches(dense: Session, small: Session, feed: Values, free: Collection[str] = ()) -> None:
    """Run both models on fewer samples, where the dense one takes them: shapes must be equal.

    Args:
        dense: the model as it was.
        small: the smaller one.
        feed: of several samples.
        free: outputs whose sizes may follow from the data.

    Raises:
        VerificationError: the smaller model does not run, or shapes differ.
    """
    sizes = {array.shape[0] if array.ndim else 0 for array in feed.values()}
    if len(sizes) != 1 or (most := sizes.pop()) < 2:
        return
    for count in {1, min(3, most - 1)}:
        part = {name: array[:count] for name, array in feed.items()}
        try:
            expected = dense.run(part)
        except (DataError, ModelError):
            continue
        try:
            found = _run(small, part)
        except ModelError as error:
            raise VerificationError(
                f"the smaller model does not run with {count} samples: {error}"
            ) from error
        for name, y in found.items():
            if y.shape != expected[name].shape and (name not in free or y.ndim != expected[name].ndim):
                raise VerificationError(
                    f"output {name} has shape {y.shape} for {count} samples, not {expected[name].shape}"
                )
