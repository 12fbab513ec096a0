"""What disturbed a benchmark, and its rows."""

from __future__ import annotations

from obs_onnx.results.benchmark import BUSY, SLOW, UNSURE, Benchmark, Latency, Ratio

A, B = Latency(2.0, 1.5, 3.0, 40, 1.9, 2.1), Latency(1.0, 0.5, 2.0, 41, 0.9, 1.1)


def test_causes_come_once_without_models_and_numbers() -> None:
    noise = (f"model 1: {SLOW}", f"model 0: {SLOW}", f"{BUSY} (load 3.1)")
    found = Benchmark((A, B), (), {}, noise)
    assert found.noisy
    assert found.causes == (SLOW, BUSY)
    assert Benchmark((A,), (), {}, (f"model 0: {UNSURE}",)).causes == (UNSURE,)
    assert not Benchmark((A,), (), {}).noisy


def test_rows_are_flat() -> None:
    environment = {"runtime": "onnxruntime", "threads": 1, "batch": 4, "cpu": "paper"}
    first, second = Benchmark((A, B), (Ratio(1, 1, 1), Ratio(0.5, 0.4, 0.6)), environment).rows(["a", "b"])
    assert first == {
        "model": "a", "median": 2.0, "p10": 1.5, "p90": 3.0, "runs": 40, "low": 1.9, "high": 2.1, "ratio": 1,
        "runtime": "onnxruntime", "threads": 1, "batch": 4,
    }  # fmt: skip
    assert (second["model"], second["ratio"]) == ("b", 0.5)
