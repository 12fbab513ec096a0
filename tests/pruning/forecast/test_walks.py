"""Shares of a model behind its boundaries."""

from __future__ import annotations

from pathlib import Path

import pytest
from forecast_runs import calibrated_residual

from obs_onnx.pruning.forecast.walks import Walk


def test_a_run_is_shared_out_among_the_stages(tmp_path: Path) -> None:
    dense = calibrated_residual(tmp_path).calibrated.dense
    walk = Walk.of(dense.model, dense.stages, dense.cost)
    assert len(walk.left) == len(walk.nodes) == len(walk.carried) == len(dense.stages.stages) + 1
    for shares in (walk.left, walk.nodes):
        assert list(shares) == sorted(shares, reverse=True)
        assert shares[0] == 1
        assert 0 < shares[-1] < 1
    assert walk.behind(-1) == 1
    assert walk.nodes_behind(len(dense.stages.stages) - 1) == walk.nodes[-1]
    sample = 4 * 3 * 8 * 8  # bytes of the input
    assert walk.carried[0] == sample
    assert walk.crossed == pytest.approx(sum(walk.carried))
