"""Readings of a fixed batch compared with the model on data."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import pytest
from fixed_batches import BUILT, feed_of, fixed

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source
from obs_onnx.data.sources import SampleSource, Source
from obs_onnx.evaluation.free_batch import find_free_batch, freed_source
from obs_onnx.runtimes.onnxruntime import OrtRuntime

ORT = OrtRuntime(threads=1)


def opener(data: object) -> Callable[[Sequence[TensorSpec]], Source]:
    return lambda specs: open_source(data, specs)


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", BUILT)
def test_a_fixed_batch_is_freed(name: str, n: int) -> None:
    proto = fixed(name, n)
    read = opener([feed_of(proto, seed) for seed in range(1, 9)])
    free = find_free_batch(ORT, ir.from_proto(proto), read)
    assert free is not None
    session = ORT.session(ir.to_proto(free.model).SerializeToString())
    (feed,) = freed_source(free, session.inputs, 64, read)
    axis = free.inputs["x"]
    assert feed["x"].shape[axis] == 8 * n
    y = session.run(feed)
    assert all(y[key].shape[where.axis] == 8 * n for key, where in free.outputs.items())


def test_samples_in_an_array_are_taken_as_a_model_with_a_free_batch_takes_them() -> None:
    proto = fixed("flattened", 2)
    read = opener({"x": np.random.default_rng(0).normal(size=(10, 3, 2, 2)).astype(np.float32)})
    free = find_free_batch(ORT, ir.from_proto(proto), read)
    assert free is not None
    source = freed_source(free, ORT.session(ir.to_proto(free.model).SerializeToString()).inputs, 4, read)
    assert isinstance(source, SampleSource)
    assert [len(feed["x"]) for feed in source] == [4, 4, 2]


def test_samples_that_see_each_other_stay_together(make_model) -> None:
    model = make_model(
        "g (float[4,3] x) => (float[4,3] y) { a = Softmax <axis = 0> (x) y = MatMul(a, w) }",
        {"w": np.eye(3, dtype=np.float32)},
    )
    data = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    assert find_free_batch(ORT, model, opener({"x": data})) is None


def test_one_feed_says_nothing() -> None:
    proto = fixed("flattened", 1)
    assert find_free_batch(ORT, ir.from_proto(proto), opener([feed_of(proto, 1)])) is None


def test_tables_that_differ_keep_feeds_apart() -> None:
    proto = fixed("with_table", 1)
    data = [{**feed_of(proto, seed), "table": np.full((6, 3), seed, np.float32)} for seed in range(1, 5)]
    assert find_free_batch(ORT, ir.from_proto(proto), opener(data)) is None


def test_a_free_batch_in_name_only_is_found_by_running_it(make_model) -> None:
    text = "g (float[N,4] x) => (float[2] y) { s = Squeeze(x, zero) y = MatMul(s, w) }"
    model = make_model(text, {"zero": np.array([0]), "w": np.ones((4, 2), np.float32)})
    read = opener({"x": np.ones((5, 4), np.float32)})
    one = find_free_batch(ORT, model, read)
    assert one is not None
    session = ORT.session(ir.to_proto(one.model).SerializeToString())
    assert [feed["x"].shape for feed in freed_source(one, session.inputs, 64, read)] == [(1, 4)] * 5
