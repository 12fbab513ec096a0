"""Data for the residual net, and the options of the papers: nothing refitted, nothing timed."""

from __future__ import annotations

import nets
import numpy as np
import pytest

PAPER = {"compensate": False, "sequential": False, "latency": False, "effort": "quick"}


def data(samples: int = 160) -> dict[str, np.ndarray]:
    x = nets.data(0, samples, 3, 8, 8)
    return {"x": x, "labels": np.random.default_rng(0).integers(0, 6, samples)}


@pytest.fixture(scope="module")
def labelled() -> dict[str, np.ndarray]:
    """Forty samples and their labels."""
    return data(40)
