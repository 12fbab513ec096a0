"""Models for a fixed number of samples take any number, and go back to what they were."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from fixed_batches import BUILT, feed_of, fixed
from nets import run_proto

from obs_onnx.passes.batch.free_batch import FreeBatch, free_batches


def together(free: FreeBatch, proto: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]) -> float:
    """Largest difference of the outputs for all feeds at once from those one by one."""
    joined = {
        name: np.concatenate([feed[name] for feed in feeds], free.inputs[name]) if name in free.inputs else x
        for name, x in feeds[0].items()
    }
    found = run_proto(ir.to_proto(free.model), joined)
    apart = [run_proto(proto, feed) for feed in feeds]
    off = []
    for name, y in found.items():
        expected = np.concatenate([one[name] for one in apart], free.outputs[name].axis)
        assert y.shape == expected.shape
        off.append(np.abs(y - expected).max())
    return float(max(off))


def shapes(model: ir.Model) -> dict[str, ir.Shape | None]:
    return {str(value.name): value.shape for value in (*model.graph.inputs, *model.graph.outputs)}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", BUILT)
def test_the_first_reading_gives_what_the_model_gives(name: str, n: int) -> None:
    proto = fixed(name, n)
    free = next(free_batches(ir.from_proto(proto)))
    assert free.size == n
    assert together(free, proto, [feed_of(proto, seed) for seed in range(1, 4)]) < 1e-5


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", BUILT)
def test_the_way_back_ends_where_it_began(name: str, n: int) -> None:
    proto = fixed(name, n)
    model = ir.from_proto(proto)
    free = next(free_batches(model))
    again = free.put_back(free.model)
    assert shapes(again) == shapes(model)
    assert [node.op_type for node in again.graph] == [node.op_type for node in model.graph]
    for key, value in model.graph.initializers.items():
        np.testing.assert_array_equal(
            again.graph.initializers[key].const_value.numpy(), value.const_value.numpy()
        )
    feed = feed_of(proto, 5)
    for key, y in run_proto(ir.to_proto(again), feed).items():
        np.testing.assert_allclose(y, run_proto(proto, feed)[key], atol=1e-6)


def test_samples_lie_on_the_axis_that_a_recurrence_says() -> None:
    free = next(free_batches(ir.from_proto(fixed("recurrent", 1))))
    assert free.inputs == {"x": 1}
    assert {name: where.axis for name, where in free.outputs.items()} == {"y": 1, "last": 1}


@pytest.mark.parametrize(("name", "state"), [("last_state", "h0"), ("one_state", "first")])
def test_a_state_of_equal_rows_has_one_row_until_it_goes_back(name: str, state: str) -> None:
    given = ir.from_proto(fixed(name, 4))
    free = next(free_batches(given))
    assert set(free.rows.values()) == {1}
    assert list(free.model.graph.initializers[state].shape) == [1, 1, 8]
    assert list(free.put_back(free.model).graph.initializers[state].shape) == [1, 4, 8]
    assert list(given.graph.initializers[state].shape) == [1, 4, 8]


def test_a_state_of_unequal_rows_keeps_them_all() -> None:
    given = ir.from_proto(fixed("last_state", 4))
    state = given.graph.initializers["h0"]
    rows = np.arange(32, dtype=np.float32).reshape(1, 4, 8)
    state.const_value = ir.tensor(rows, name="h0")
    for free in free_batches(given):
        assert not free.rows
        for model in (free.model, free.put_back(free.model)):
            np.testing.assert_array_equal(model.graph.initializers["h0"].const_value.numpy(), rows)


def test_a_table_has_no_samples() -> None:
    assert next(free_batches(ir.from_proto(fixed("with_table", 1)))).inputs == {"x": 0}


def declared(name: str) -> ir.Model:
    """For one sample, though it says any number."""
    model = ir.from_proto(fixed(name, 1))
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape(["N", *list(value.shape)[1:]])
    return model


@pytest.mark.parametrize("name", ["flattened", "heads_first", "class_token", "detector"])
def test_a_batch_that_is_free_in_name_only_becomes_free(name: str) -> None:
    model, proto = declared(name), fixed(name, 1)
    free = next(free_batches(model))
    assert free.inputs == {"x": 0}
    assert together(free, proto, [feed_of(proto, seed) for seed in range(1, 4)]) < 1e-5
    assert shapes(free.put_back(free.model)) == shapes(model)


def test_a_batch_that_is_free_is_left_alone(make_model) -> None:
    model = make_model(
        "g (float[N,4] x) => (float[N,2] y) { r = Relu(x) f = Reshape(r, to) y = MatMul(f, w) }",
        {"to": np.array([-1, 4]), "w": np.ones((4, 2), np.float32)},
    )
    assert list(free_batches(model)) == []


def test_what_cannot_be_freed_is_taken_one_by_one(make_model) -> None:
    model = make_model(
        "g (float[N,4] x) => (float[2] y) { s = Squeeze(x, zero) y = MatMul(s, w) }",
        {"zero": np.array([0]), "w": np.ones((4, 2), np.float32)},
    )
    (one,) = free_batches(model)
    assert one.inputs == {}
    assert one.model.graph.inputs[0].shape == (1, 4)
    assert shapes(one.put_back(one.model)) == shapes(model)


def test_without_a_way_there_is_no_reading(make_model) -> None:
    model = make_model(
        "g (float[1,4] x) => (float[2] y) { s = Squeeze(x, zero) y = MatMul(s, w) }",
        {"zero": np.array([0]), "w": np.ones((4, 2), np.float32)},
    )
    assert list(free_batches(model)) == []
