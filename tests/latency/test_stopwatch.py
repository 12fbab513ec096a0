"""Whole models timed against the dense one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from formula_runtime import FormulaRuntime, in_steps
from wide_net import LOCAL, coupled, sample_of, seconds, wide

from obs_onnx.latency import Stopwatch
from obs_onnx.latency.blocks import narrowed
from obs_onnx.latency.cache import LatencyCache
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.work.work_folder import open_work


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

    def test_what_was_timed_before_a_stop_is_not_timed_again(self, tmp_path: Path) -> None:
        found = []
        for _ in range(2):
            watch, coupling = self.watch()
            watch.work = open_work(tmp_path, lambda: {"model": "wide"}, True)
            watch.cache = LatencyCache({}, tmp_path / "none")
            small = narrowed(coupling, {group.id: 32 for group in coupling.groups})
            table = watch.table(coupling)
            found.append(
                (watch.dense_ms, watch.ratio(small), table.cost.value({}), table.counts, table.noise)
            )
            assert bool(watch.target.timings) == (len(found) == 1)
        assert found[0] == found[1]

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
