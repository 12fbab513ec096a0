"""Settings: what follows from what is left open."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.autodiff.optimizers import FOOF, SGD, Adam, AdamW
from obs_onnx.training.settings import RATES, Settings


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"optimizer": "sgd"}, SGD(0.9, 0.0)),
        ({"optimizer": "sgd", "momentum": 0.5, "decay": 0.1}, SGD(0.5, 0.1)),
        ({"optimizer": "adam", "momentum": 0.5}, Adam()),
        ({"optimizer": "adamw"}, AdamW(decay=1e-2)),
        ({"optimizer": "adamw", "decay": 0.0}, AdamW(decay=0.0)),
        ({"optimizer": "foof", "momentum": 0.0}, FOOF(0.0, 0.0)),
    ],
)
def test_the_rule(options: dict[str, object], rule: object) -> None:
    assert Settings(5, **options).rule() == rule


@pytest.mark.parametrize(
    ("steps", "warmup", "peak"), [(50, None, 5), (5000, None, 100), (5, None, 0), (50, 20, 20), (50, 200, 50)]
)
def test_the_rate_rises_over_a_tenth_of_the_steps_or_as_told(
    steps: int, warmup: int | None, peak: int
) -> None:
    rates = [Settings(steps, optimizer="adam", warmup=warmup).schedule()(k) for k in range(steps)]
    assert max(rates) == pytest.approx(RATES["adam"])
    rising = int(np.argmax(np.array(rates) >= RATES["adam"] * (1 - 1e-9)))
    assert rising == max(peak - 1, 0)
    assert Settings(steps, rate=0.5, warmup=0).schedule()(0) == 0.5
