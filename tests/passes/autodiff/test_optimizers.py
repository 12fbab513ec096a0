"""Updates of one weight over several steps, against the published formulas in float64."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import build_model, run_proto

from obs_onnx.passes.autodiff.optimizers import FOOF, SGD, Adam, AdamW, Metric
from obs_onnx.passes.graph.emitter import Emitter
from obs_onnx.passes.graph.names import Names
from obs_onnx.passes.traits.linear import WeightLayout

W = np.random.default_rng(0).standard_normal((3, 4))
GRADIENTS = np.random.default_rng(1).standard_normal((4, 3, 4))
RATE = 0.05


def steps(optimizer, decays: bool, metric: Metric | None = None) -> np.ndarray:
    """The weight after four steps with gradients that are given."""
    metric = metric or Metric()
    model = ir.from_proto(
        build_model("g (double[3,4] w, double[3,4] g) => (double[3,4] y) { y = Add(w, g) }")
    )
    graph, names = model.graph, Names(model)
    w, g = graph.inputs

    def new(name: str, *shape: int) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=w.type)
        graph.inputs.append(value)
        return value

    slots = {name: new(name, 3, 4) for name in optimizer.slots}
    scalars = {name: new(f"scalar.{name}") for name in optimizer.scalars}
    inverses = [new(f"inverse{i}", *array.shape) for i, array in enumerate(metric.inverses)]
    emitter = Emitter(model, names, "step")
    after, changed = optimizer.update(emitter, w, g, slots, scalars, decays, (metric, inverses))
    graph.outputs.clear()
    graph.outputs.extend([after, *changed.values()])
    proto = ir.to_proto(model)
    state = {name: np.zeros_like(W) for name in slots}
    held = {f"inverse{i}": array for i, array in enumerate(metric.inverses)}
    weight = W
    for t, gradient in enumerate(GRADIENTS, start=1):
        numbers = {f"scalar.{name}": np.array(n) for name, n in optimizer.numbers(t, RATE).items()}
        found = run_proto(proto, {"w": weight, "g": gradient, **state, **numbers, **held})
        weight = found[after.name]
        state = {name: found[value.name] for name, value in changed.items()}
    return weight


@pytest.mark.parametrize("decays", [True, False])
def test_momentum(decays: bool) -> None:
    w, m = W, 0.0
    for g in GRADIENTS:
        m = 0.8 * m + g + 0.1 * decays * w
        w = w - RATE * m
    np.testing.assert_allclose(steps(SGD(0.8, 0.1), decays), w, rtol=1e-12)


@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adaptive_moments(kind: type[Adam], decays: bool) -> None:
    """Kingma and Ba, algorithm 1; Loshchilov and Hutter, algorithm 2."""
    b1, b2, eps, decay = 0.8, 0.95, 1e-3, 0.1 * decays
    w, m, v = W, 0.0, 0.0
    for t, g in enumerate(GRADIENTS, start=1):
        if kind is AdamW:
            w = w - RATE * decay * w
        else:
            g = g + decay * w
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        w = w - RATE * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    np.testing.assert_allclose(steps(kind(b1, b2, eps, 0.1), decays), w, rtol=1e-9)


def moments(*sizes: int) -> tuple[np.ndarray, ...]:
    """Positive definite matrices, two of each size."""
    rng = np.random.default_rng(2)
    roots = [rng.standard_normal((2, n, n)) for n in sizes]
    return tuple(root @ root.swapaxes(1, 2) + np.eye(root.shape[1]) for root in roots)


@pytest.mark.parametrize("sizes", [(3,), (1, 2)])
def test_descent_of_the_outputs(sizes: tuple[int, ...]) -> None:
    """Two groups of two outputs and three inputs; the moment of the inputs may be a matrix for each run."""
    layout = WeightLayout((3, 4), (3, 2, 2), (1, 2, 0), (2, 2, 3))
    h = moments(*sizes)
    metric = Metric(norm=2.0, inverses=tuple(np.linalg.inv(one) for one in h), layout=layout)
    full = np.zeros((2, 3, 3))
    first = 0
    for one in h:
        end = first + one.shape[1]
        full[:, first:end, first:end] = one
        first = end
    w, m = W, np.zeros_like(W)
    for g in GRADIENTS:
        m = 0.5 * m + g
        u_GOI = np.linalg.solve(full, layout.to_matrix(m).swapaxes(1, 2)).swapaxes(1, 2)
        length = np.sqrt(np.sum((u_GOI @ full) * u_GOI))
        w = (1 - RATE * 0.1) * w - RATE * 2.0 * layout.to_tensor(u_GOI) / length
    np.testing.assert_allclose(steps(FOOF(0.5, 0.1), True, metric), w, rtol=1e-9)


def test_without_a_metric_the_step_has_a_fixed_length() -> None:
    w, m = W, 0.0
    for g in GRADIENTS:
        m = 0.9 * m + g
        w = w - RATE * 3.0 * m / np.linalg.norm(m)
    np.testing.assert_allclose(steps(FOOF(), False, Metric(norm=3.0)), w, rtol=1e-9)
