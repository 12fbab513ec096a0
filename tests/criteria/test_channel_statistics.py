"""What criteria look at, against sums over all samples."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_helpers import named, opened, tensors_of
from nets import run_proto

from obs_onnx.criteria.channel_statistics import Signal


@pytest.mark.parametrize(
    ("shape", "axis"), [((7, 5), 1), ((7, 5), -1), ((7, 5, 3, 2), 1), ((7, 3, 5), 2), ((5, 7), 0)]
)
def test_signals_add_up_over_batches(shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x[np.abs(x) < 0.3] = 0
    signal = Signal()
    if axis == 0:  # elements of the first axis are no samples
        signal.update(x, axis)
    else:
        for rows in (slice(0, 3), slice(3, 7)):
            signal.update(x[rows], axis)
    columns = np.moveaxis(x, axis, -1).reshape(-1, shape[axis]).astype(np.float64)
    samples = 1 if axis == 0 else 7
    assert (signal.samples, signal.positions) == (samples, len(columns))
    np.testing.assert_allclose(signal.total, columns.sum(0))
    np.testing.assert_allclose(signal.square, (columns**2).sum(0))
    np.testing.assert_array_equal(signal.zeros, (columns == 0).sum(0))
    means = columns.reshape(samples, -1, shape[axis]).mean(1)
    np.testing.assert_allclose(np.concatenate(signal.means), means)


def test_layers_that_read_a_group_and_their_columns() -> None:
    _, coupling, _, evidence = opened(nets.residual(), nets.data(0, 20, 3, 8, 8))
    found = evidence.consumers(named(coupling, "stem.weight[0]"))
    assert {one.layer.name for one in found} == {"a1.weight", "b1.weight", "skip.weight"}
    for one in found:
        kernel = one.layer.layout.goi[2] // 12
        np.testing.assert_array_equal(one.columns.sum(axis=1), [kernel] * 12)
        np.testing.assert_array_equal(one.columns.sum(axis=0), [1] * one.layer.layout.goi[2])
    assert evidence.consumers(named(coupling, "stem.weight[0]")) is found


def test_moments_of_a_reader_are_those_of_what_it_reads() -> None:
    x = nets.data(0, 90, 12)
    model, coupling, _, evidence = opened(nets.mlp(), x, damping=0.0)
    (one,) = evidence.consumers(named(coupling, "fc1.weight[0]"))
    proto = ir.to_proto(model)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("h1"))
    h = run_proto(proto, {"x": x})["h1"].astype(np.float64)
    about = h - h.mean(0)
    problem = evidence.posed(one.layer)
    np.testing.assert_allclose(problem.problem.a[0], about.T @ about, rtol=1e-4, atol=1e-3)
    assert evidence.posed(one.layer) is problem
    evidence.forget(named(coupling, "fc1.weight[0]"))
    assert evidence.posed(one.layer) is not problem
    ((signal, incidence),) = evidence.signal(named(coupling, "fc1.weight[0]"))
    np.testing.assert_allclose(signal.total, h.sum(0), rtol=1e-5)
    np.testing.assert_array_equal(incidence.toarray(), np.eye(32, dtype=bool))


def test_classes_are_those_that_the_model_names() -> None:
    x = nets.data(0, 90, 12)
    model, _, _, evidence = opened(nets.mlp(), x, batch=40)
    np.testing.assert_array_equal(evidence.classes, run_proto(ir.to_proto(model), {"x": x})["y"].argmax(1))


def test_all_weights_that_go_with_a_channel() -> None:
    _, coupling, _, evidence = opened(nets.mlp(), nets.data(0, 20, 12))
    w = tensors_of(evidence.model)
    parts = list(evidence.weights(named(coupling, "fc1.weight[0]")))
    squares = sum(incidence @ (rows**2).sum(1) for rows, incidence in parts)
    expected = (w["fc1.weight"].astype(float) ** 2).sum(1) + w["fc1.bias"].astype(float) ** 2
    expected += (w["fc2.weight"].astype(float) ** 2).sum(0)
    np.testing.assert_allclose(squares, expected)
