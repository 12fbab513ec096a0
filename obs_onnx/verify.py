"""Measure what pruning did, and check every claim before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.gram import outputs
from obs_onnx.passes.errors import ModelError, VerificationError
from obs_onnx.passes.layers import Layer
from obs_onnx.passes.segments import extract
from obs_onnx.runtimes.base import Runtime, Session
from obs_onnx.solvers import Pattern, follows
from obs_onnx.walk import Values, open_part

__all__ = ["Measured", "check_model", "check_zeros", "measure"]


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
    alone: Session | None = None
    error = {layer.name: 0.0 for layer in layers}
    isolated, energy = dict(error), dict(error)
    norms = dict.fromkeys(ends, 0.0)
    for feed in held_out:
        values = {**feed, **_run(whole, feed)}
        actual = _run(inside, feed)
        alone = alone or _session(runtime, _declared(pruned, values), xs, ys)
        single = _run(alone, values)
        for name in ends:
            norms[name] += _energy(values[name])
        for layer, use in uses:
            y, goi = values[use.y], layer.layout.goi
            error[layer.name] += _energy(actual[use.y] - y)
            isolated[layer.name] += _energy(single[use.y] - y)
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


def _declared(model: ir.Model, values: Values) -> ir.Model:
    for node in model.graph:
        for value in node.outputs:
            if value.dtype is None and value.name is not None and value.name in values:
                value.dtype = ir.DataType.from_numpy(values[value.name].dtype)
    return model


def _session(runtime: Runtime, model: ir.Model, inputs: Sequence[str], outs: Sequence[str]) -> Session:
    return open_part(runtime, extract(model, inputs, outs))


def _run(session: Session, values: Values) -> dict[str, NDArray[Any]]:
    return session.run({spec.name: values[spec.name] for spec in session.inputs})


def _energy(y: NDArray[Any]) -> float:
    return float(np.sum(np.square(y.astype(np.float64, copy=False)))) if y.dtype.kind not in "OSUb" else 0.0


def check_zeros(
    model: ir.Model, layers: Sequence[Layer], removed: Mapping[str, int], pattern: Pattern
) -> dict[str, int]:
    """Zero weights of each layer, counted in the model itself.

    Raises:
        VerificationError: a layer has fewer zeros than it should, or breaks the pattern.
    """
    zeros: dict[str, int] = {}
    for layer in layers:
        tensor = model.graph.initializers[layer.name].const_value
        assert tensor is not None
        w_GOI = layer.layout.to_matrix(tensor.numpy())
        zeros[layer.name] = int(np.count_nonzero(w_GOI == 0))
        if zeros[layer.name] < removed.get(layer.name, 0):
            raise VerificationError(
                f"layer {layer.name} has {zeros[layer.name]} zeros where {removed[layer.name]} were promised"
            )
        if layer.name in removed and not follows(w_GOI != 0, pattern):
            raise VerificationError(f"layer {layer.name} breaks the pattern {pattern}")
    return zeros


def check_model(runtime: Runtime, model: ir.Model, feed: Values, expected: Values) -> None:
    """The full ONNX checker, a load by the runtime, and a run whose outputs are the expected ones.

    Raises:
        VerificationError: any of the three fails.
    """
    import onnx

    proto = ir.to_proto(model)
    try:
        if proto.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
            onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise VerificationError(f"the pruned model does not pass the ONNX checker: {error}") from error
    try:
        session = open_part(runtime, model.clone())
    except ModelError as error:
        raise VerificationError(f"the pruned model does not load: {error}") from error
    for name, y in _run(session, feed).items():
        reference = expected[name]
        if y.dtype.kind == "f":
            scale = float(np.max(np.abs(reference), initial=0.0)) or 1.0
            tolerance = 1e-4 if y.dtype.itemsize >= 4 else 1e-2
            same = bool(np.all(np.abs(y.astype(np.float64) - reference) <= tolerance * scale))
        else:
            same = bool(np.array_equal(y, reference))
        if not same:
            raise VerificationError(f"output {name} of the written model differs from the measured one")
