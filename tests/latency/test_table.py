"""Tables measured on a runtime whose time is a known function of the widths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from formula_runtime import FormulaRuntime, in_steps
from nets import NETS, Net

from obs_onnx.data.open_source import open_source
from obs_onnx.data.sources import Source
from obs_onnx.io.onnx_file import serialize
from obs_onnx.latency import Stopwatch, measure_table, timing_feed
from obs_onnx.latency.blocks import MOST_TIMINGS, BlockClock, narrowed
from obs_onnx.latency.cache import LatencyCache
from obs_onnx.latency.noise import Noise
from obs_onnx.latency.table import doubtful
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import Coupling, couple
from obs_onnx.passes.errors import ModelError, OptionError
from obs_onnx.runtimes import open_runtime


def wide() -> onnx.ModelProto:
    """Three convolutions of many channels, the first and the last joined by a skip."""
    net = Net(7)
    x = net.op("Relu", net.conv("x", "stem", 64, 3))
    y = net.op("Relu", net.conv(x, "inner", 96, 64))
    x = net.op("Relu", net.op("Add", net.conv(y, "outer", 64, 96), x))
    net.op("Identity", net.dense(net.pooled(x), "head", 64, 6), name="y")
    return net.proto({"x": [3, 4, 4]}, {"y": [6]})


def coupled(proto: onnx.ModelProto) -> Coupling:
    return couple(prepare(ir.from_proto(proto)))


def sample_of(coupling: Coupling, batch: int = 1) -> dict[str, np.ndarray]:
    (value,) = coupling.model.graph.inputs
    shape = (batch, *(int(dim) for dim in value.shape[1:]))
    return {str(value.name): np.random.default_rng(0).standard_normal(shape).astype(np.float32)}


LOCAL = open_runtime("onnxruntime", 1)


def seconds(runtime: FormulaRuntime, model: ir.Model) -> float:
    (found,) = runtime.session(serialize(model)).time({}, 1)
    return found


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


def test_a_disturbed_time_is_taken_again() -> None:
    coupling, target, cache = coupled(wide()), FormulaRuntime(in_steps(16)), LatencyCache({"d": 1})
    clock = BlockClock(target, LOCAL, sample_of(coupling), cache)
    truth = clock.milliseconds(clock.signatures(coupling.model)["Conv_inner"])
    small = {group.id: 32 for group in coupling.groups}
    keys = clock.signatures(narrowed(coupling, small))
    cache._known[keys["Conv_inner"]] = (100.0, 1)
    clock.signatures(narrowed(coupling, small), {"Conv_inner"}, again=True)
    assert cache.timings(keys["Conv_inner"]) == 2
    assert clock.milliseconds(keys["Conv_inner"]) < truth
    for _ in range(3):
        clock.signatures(narrowed(coupling, small), {"Conv_inner"}, again=True)
    assert cache.timings(keys["Conv_inner"]) == MOST_TIMINGS
    assert cache.timings(keys["Conv_outer"]) == 1


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


class TestStopwatch:
    def watch(self, **options: float) -> tuple[Stopwatch, Coupling]:
        coupling = coupled(wide())
        target = FormulaRuntime(in_steps(16), **options)
        return Stopwatch(target, LOCAL, coupling.model, sample_of(coupling), levels=3), coupling

    def test_ratio(self) -> None:
        watch, coupling = self.watch()
        small = narrowed(coupling, {group.id: group.n // 2 for group in coupling.groups})
        expected = seconds(watch.target, small) / seconds(watch.target, coupling.model)
        assert watch.ratio(small) == pytest.approx(expected)
        assert watch.dense_ms == pytest.approx(1e3 * seconds(watch.target, coupling.model))
        assert watch.notes == []

    def test_the_same_widths_are_timed_once(self) -> None:
        watch, coupling = self.watch()
        small = narrowed(coupling, {group.id: 32 for group in coupling.groups})
        found, timings = watch.ratio(small), watch.target.timings
        other = narrowed(coupling, {group.id: 32 for group in coupling.groups})
        for value in other.graph.initializers.values():
            if value.const_value.dtype.is_floating_point():
                value.const_value = ir.tensor(np.zeros_like(value.const_value.numpy()), name=value.name)
        assert (watch.ratio(other), watch.target.timings) == (found, timings)
        watch.ratio(narrowed(coupling, {group.id: 48 for group in coupling.groups}))
        assert watch.target.timings > timings

    def test_noise_is_told_once(self) -> None:
        watch, coupling = self.watch(load=3.9)
        watch.table(coupling)
        watch.ratio(coupling.model)
        noisy = [note for note in watch.notes if "noisy" in note]
        assert len(noisy) == 1
        measured = len(watch.table(coupling).wholes) + 1
        assert noisy[0] == (
            f"latency is noisy in {measured} of {measured} measurements: the machine was busy before "
            f"({measured}); the machine is too busy to trust them: run again when it is idle"
        )

    def test_little_noise_is_no_reason_to_stop(self) -> None:
        found = Noise(10, 2)
        found.causes.update({"slow": 2, "unsure": 1})
        assert found.lines() == ["latency is noisy in 2 of 10 measurements: slow (2), unsure (1)"]
        assert Noise(10).lines() == []


class TestSample:
    def source(self, rows: int) -> tuple[Source, tuple]:
        inputs = LOCAL.session(NETS["mlp"]().SerializeToString()).inputs
        x = np.arange(12.0 * rows, dtype=np.float32).reshape(rows, 12)
        return open_source({"x": x}, inputs, batch_size=4), inputs

    @pytest.mark.parametrize("batch", [1, 3, 5, 12])
    def test_the_batch_is_what_was_asked_for(self, batch: int) -> None:
        source, inputs = self.source(5)
        x = timing_feed(source, inputs, batch)["x"]
        assert x.shape == (batch, 12)
        np.testing.assert_array_equal(x[:, 0], 12 * (np.arange(batch) % 5))

    def test_a_fixed_batch(self) -> None:
        net = Net(0)
        net.op("Identity", net.dense("x", "fc", 12, 3), name="y")
        inputs = LOCAL.session(net.proto({"x": [12]}, {"y": [3]}, batch=2).SerializeToString()).inputs
        source = open_source({"x": np.ones((6, 12), np.float32)}, inputs, batch_size=4)
        for batch in (1, 2):
            assert timing_feed(source, inputs, batch)["x"].shape == (2, 12)
        with pytest.raises(OptionError, match=r"batch 3: .* it takes batches of 2: leave"):
            timing_feed(source, inputs, 3)
