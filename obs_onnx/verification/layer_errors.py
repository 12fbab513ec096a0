"""Errors of every layer, alone and behind the pruned layers before it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.calibration.unfold import outputs
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names
from obs_onnx.passes.graph.node_facts import FLOATS
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.runtimes.base import Runtime, Session
from obs_onnx.runtimes.sessions.partial_run import Values, open_part, run_feed

__all__ = ["Measured", "measure"]

_UP = 1 + 1e-6


@dataclass(frozen=True)
class Measured:
    """Differences between a pruned and the dense model on held-out data.

    Attributes:
        layer_errors: relative error of each layer's output inside the pruned network, all uses together; None
            where it has another size there, which follows from the data.
        isolated_errors: ``||(W' - W) X||_F`` of each layer on the dense model's inputs, over all held-out
            samples (the square root of the paper's layer-wise error times the number of samples), rounded up
            by a millionth, so that a bound made of it holds for what is measured in another order.
        output_norms: ``||y||_F`` of each floating-point output of the dense model.
        output_changes: ``||y' - y||_F`` of the same outputs of the pruned one; of another size, all is wrong.
    """

    layer_errors: Mapping[str, float | None]
    isolated_errors: Mapping[str, float]
    output_norms: Mapping[str, float]
    output_changes: Mapping[str, float]


def measure(
    runtime: Runtime, dense: ir.Model, pruned: ir.Model, layers: Sequence[Layer], held_out: Iterable[Values]
) -> Measured:
    """Compare layer by layer; a batch's activations are held at a time."""
    uses = [(layer, use) for layer in layers for use in layer.uses]
    xs = list(dict.fromkeys(use.x for _, use in uses))
    ys = list(dict.fromkeys(use.y for _, use in uses))
    names = input_names(dense)
    ends = [str(value.name) for value in dense.graph.outputs if value.dtype in FLOATS]
    produced = [name for name in dict.fromkeys(xs + ys + ends) if name not in names]
    whole = _session(runtime, dense, names, produced)
    inside = _session(
        runtime, pruned, names, [*ys, *(name for name in produced if name in set(ends) - set(ys))]
    )
    alone: list[Session] = []
    error = {layer.name: 0.0 for layer in layers}
    isolated, energies = dict(error), dict(error)
    norms, changes, resized = dict.fromkeys(ends, 0.0), dict.fromkeys(ends, 0.0), set[str]()
    for feed in held_out:
        values = {**feed, **run_feed(whole, feed)}
        actual = run_feed(inside, feed)
        alone = alone or _alone(runtime, pruned, xs, ys, values)
        single = {name: y for session in alone for name, y in run_feed(session, values).items()}
        for name in ends:
            norms[name] += energy(finite(values[name]))
            changes[name] += _change(actual.get(name, values[name]), values[name])
        for layer, use in uses:
            y, goi = values[use.y], layer.layout.goi
            if actual[use.y].shape == y.shape:
                error[layer.name] += energy(difference(actual[use.y], y))
            else:
                resized.add(layer.name)
            isolated[layer.name] += energy(difference(single[use.y], y))
            energies[layer.name] += energy(_centred(y, layer, goi))
    relative = {
        name: None if name in resized else float(np.sqrt(value / energies[name])) if energies[name] else 0.0
        for name, value in error.items()
    }
    return Measured(
        relative,
        {name: float(np.sqrt(value)) * _UP for name, value in isolated.items()},
        {name: float(np.sqrt(value)) for name, value in norms.items()},
        {name: float(np.sqrt(value)) for name, value in changes.items()},
    )


def _change(a: NDArray[Any], b: NDArray[Any]) -> float:
    return energy(difference(a, b)) if a.shape == b.shape else energy(finite(b))


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


def difference(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """``a - b`` in float64; equal infinities (masked scores) do not differ."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.asarray(np.subtract(a, b, out=np.zeros_like(a), where=a != b))


def finite(y: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(y), y, 0) if y.dtype.kind not in "OSU" else y


def energy(y: NDArray[Any]) -> float:
    return float(np.sum(np.square(y.astype(np.float64, copy=False)))) if y.dtype.kind not in "OSUb" else 0.0
