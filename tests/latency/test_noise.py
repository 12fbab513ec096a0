"""Disturbed measurements, counted and told once."""

from __future__ import annotations

from obs_onnx.latency.noise import Noise
from obs_onnx.results.benchmark import BUSY, SLOW, Benchmark


class TestNoise:
    def test_little_noise_is_no_reason_to_stop(self) -> None:
        found = Noise(10, 2)
        found.causes.update({"slow": 2, "unsure": 1})
        assert found.lines() == ["latency is noisy in 2 of 10 measurements: slow (2), unsure (1)"]
        assert Noise(10).lines() == []

    def test_measurements_add_up_with_their_causes(self) -> None:
        quiet = Benchmark((), (), {})
        loud = Benchmark((), (), {}, (f"model 0: {SLOW}", f"model 1: {SLOW}", f"{BUSY}: load 3.9"))
        one, other = Noise(), Noise()
        for found in (quiet, loud, loud):
            one.add(found)
        other.add(loud)
        one.include(other)
        assert (one.measurements, one.disturbed) == (4, 3)
        assert one.causes == {SLOW: 3, BUSY: 3}
        (line,) = one.lines()
        assert line.startswith("latency is noisy in 3 of 4 measurements:")
        assert line.endswith("run again when it is idle")
