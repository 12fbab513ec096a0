from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from obs_onnx.passes.layers.layer import Frozen
from obs_onnx.results.pruning import Figures, Latency, LayerResult, Report


@dataclass(frozen=True)
class FakeBound:
    frobenius: float | None = 3.0
    spectral: float | None = 2.0
    blocked_by: tuple[tuple[str, str], ...] = ()


def a_report(**changes: object) -> Report:
    before = Figures(100, 100, 90, 1000, 900, Latency(1.0, 0.9, 1.2, 50), "onnxruntime", 0.98)
    after = Figures(100, 40, 90, 1000, 400, Latency(1.1, 0.9, 1.2, 50), "onnxruntime", 0.97)
    layer = LayerResult("fc1.weight", "Gemm", (10, 9), 90, 0.25, 0.01, float("nan"), "obs", 1e-3)
    fields: dict[str, object] = {
        "model": "a.onnx",
        "output": "b.onnx",
        "mode": "weights",
        "criterion": "obs",
        "targets": {"sparsity": 0.75},
        "met": True,
        "before": before,
        "after": after,
        "output_error": 0.05,
        "agreement": 0.99,
        "bound": FakeBound(),
        "layers": (layer,),
        "frozen": (Frozen("rnn", "LSTM", "recurrent"),),
        "seconds": {"calibrate": 1.5},
    }
    return Report(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture
def make_report() -> Callable[..., Report]:
    """A small report; keyword arguments replace its fields."""
    return a_report


@pytest.fixture
def make_bound() -> type[FakeBound]:
    """Stands in for a bound: frobenius, spectral, blocked_by."""
    return FakeBound
