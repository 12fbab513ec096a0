"""Tables measured on a runtime whose time is a known function of the widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from formula_runtime import FormulaRuntime, in_steps
from nets import NETS
from wide_net import LOCAL, coupled, sample_of, seconds, wide

from obs_onnx.latency import Stopwatch, measure_table
from obs_onnx.latency.blocks import MOST_TIMINGS, narrowed
from obs_onnx.latency.cache import LatencyCache
from obs_onnx.latency.table import doubtful
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.errors import ModelError


def test_predicts_models_that_were_not_measured() -> None:
    coupling, target = coupled(wide()), FormulaRuntime(in_steps(16))
    steps: list[int] = []
    table = measure_table(coupling, target, LOCAL, sample_of(coupling), advance=steps.append)
    assert table.dense_ms == pytest.approx(1e3 * seconds(target, coupling.model))
    assert table.cost.value({}) == pytest.approx(table.dense_ms, rel=0.05)
    assert table.kinds["Conv 3x3 1/1"] == 16
    assert table.error < 0.05
    assert set(steps) == {1}
    assert len(steps) >= len(table.wholes)
    rng = np.random.default_rng(3)
    for _ in range(10):
        row = {group.id: int(rng.choice(table.counts[group.id][3:])) for group in coupling.groups}
        truth = 1e3 * seconds(target, narrowed(coupling, row))
        assert table.cost.value(row) == pytest.approx(truth, rel=0.15)


def test_counts_are_steps_and_what_lies_below_one() -> None:
    coupling, target = coupled(wide()), FormulaRuntime(in_steps(16))
    table = measure_table(coupling, target, LOCAL, sample_of(coupling), levels=3)
    by_width = {group.n: table.counts[group.id] for group in coupling.groups}
    assert by_width == {64: (2, 4, 8, 16, 32, 48, 64), 96: (2, 4, 8, 16, 32, 48, 64, 80, 96)}
    wanted = measure_table(coupling, target, LOCAL, sample_of(coupling), levels=3, round_to=24)
    by_width = {group.n: wanted.counts[group.id] for group in coupling.groups}
    assert by_width == {64: (24, 48, 64), 96: (24, 48, 72, 96)}
    assert wanted.kinds == {}


def test_a_second_run_times_nothing() -> None:
    coupling, target = coupled(wide()), FormulaRuntime(in_steps(16))
    first = measure_table(coupling, target, LOCAL, sample_of(coupling), levels=3)
    again = measure_table(coupled(wide()), FormulaRuntime(in_steps(16)), LOCAL, sample_of(coupling), levels=3)
    assert first.timed > 0
    assert (again.timed, again.cost.value({})) == (0, first.cost.value({}))
    other = measure_table(coupling, target, LOCAL, sample_of(coupling, batch=2), levels=3)
    assert other.timed > 0


def test_doubtful_blocks_are_timed_a_few_times_in_all_runs() -> None:
    """A width that is really slower than a wider one stays so; it is not timed again for ever."""

    def odd(model: onnx.ModelProto) -> float:
        slow = any(list(t.dims[:2]) == [96, 32] for t in model.graph.initializer)
        return in_steps(16)(model) * (3 if slow else 1)

    coupling, target = coupled(wide()), FormulaRuntime(odd)
    cache = LatencyCache({"odd": 1})
    counts: dict[str, int] = {}
    table = measure_table(coupling, target, LOCAL, sample_of(coupling), levels=5, cache=cache)
    for own in cache._known:
        counts[own] = cache.timings(own)
    assert set(counts.values()) == {1, MOST_TIMINGS}
    cache = LatencyCache({"odd": 1})
    again = measure_table(coupling, target, LOCAL, sample_of(coupling), levels=5, cache=cache)
    assert (again.timed, table.error) == (0, again.error)


def test_doubts() -> None:
    rows = [{0: 8, 1: 8}, {0: 16, 1: 8}, {0: 8, 1: 16}, {0: 16, 1: 16}]
    meeting = {"a": (0, 1), "b": (0,), "gone": (1,), "fixed": ()}
    times = [
        {"a": 2.0, "b": 1.0, "fixed": 1.0},
        {"a": 1.5, "b": 1.05, "fixed": 9.0},
        {"a": 2.05, "b": 1.2, "fixed": 1.0},
        {"a": 2.0, "b": 1.3, "fixed": 1.0},
    ]
    assert doubtful(rows, times, meeting) == {0: {"a"}, 2: {"b"}, 3: {"b"}}


def test_a_block_that_cannot_run_alone_is_left_out() -> None:
    coupling = coupled(wide())
    target = FormulaRuntime(in_steps(16), refuses="Gemm")
    watch = Stopwatch(target, LOCAL, coupling.model, sample_of(coupling), levels=3)
    table = watch.table(coupling)
    assert list(table.left_out) == ["Gemm_head"]
    assert table.cost.value({}) == pytest.approx(table.dense_ms, rel=0.1)
    assert {block.name for block in table.cost.blocks} == {"Conv_stem", "Conv_inner", "Conv_outer"}
    notes = [note for note in watch.notes if "Gemm_head" in note]
    assert notes == [
        "the block of node 'Gemm_head' cannot be timed alone, its time counts as constant: "
        "formula cannot load the model: no lone Gemm"
    ]


def test_a_whole_model_that_cannot_be_loaded_ends_the_run(cache_folder: Path) -> None:
    class Broken(FormulaRuntime):
        blocks = 0

        def session(self, model, external_data=None):
            small = len(onnx.load_from_string(model).graph.node) <= 4
            self.blocks += small
            if self.blocks and not small:
                raise ModelError("too large")
            return super().session(model, external_data)

    coupling = coupled(wide())
    with pytest.raises(ModelError, match="too large"):
        measure_table(coupling, Broken(in_steps(16)), LOCAL, sample_of(coupling), levels=3)
    (file,) = (cache_folder / "latency").iterdir()  # what was timed before is not lost
    assert len(file.read_text().splitlines()) > 3


@pytest.mark.parametrize("net", sorted(NETS))
def test_every_family(net: str) -> None:
    coupling, target = coupled(NETS[net]()), FormulaRuntime(in_steps(4))
    table = measure_table(coupling, target, LOCAL, sample_of(coupling), levels=3)
    assert table.left_out == {}
    assert table.cost.value({}) == pytest.approx(table.dense_ms, rel=0.1)
    for one in table.wholes:
        assert table.cost.value(one.counts) == pytest.approx(one.ratio * table.dense_ms, rel=0.25)


def test_a_model_of_one_width(make_model) -> None:
    text = "g (float[N,4] x) => (float[N,2] y) { a = Gemm <transB = 1> (x, v)  y = Gemm <transB = 1> (a, w) }"
    tensors = {"v": np.ones((1, 4), np.float32), "w": np.ones((2, 1), np.float32)}
    coupling = couple(prepare(make_model(text, tensors)))
    table = measure_table(coupling, FormulaRuntime(in_steps(1)), LOCAL, {"x": np.ones((1, 4), np.float32)})
    assert (len(table.wholes), table.error) == (1, 0.0)
    assert table.cost.value({}) == pytest.approx(table.dense_ms, rel=0.05)
