"""Rows of dense, pruned and quantized models."""

from __future__ import annotations

from obs_onnx.report.comparison_table import COMBINED, combined_rows
from obs_onnx.results.pruning import Combination, Latency


def test_one_row_for_each_model_and_dashes_for_what_was_not_measured() -> None:
    full = Combination("pruned int8", 330_000, 0.9923, 0.01234, 0.987, Latency(0.0807, 0.07, 0.1, 50))
    rows = combined_rows([Combination("dense", 1_734_000), full])
    assert rows == [
        ("dense", "1.7 MB", "-", "-", "-", "-", "-"),
        ("pruned int8", "330 kB", "99.23 %", "0.0123", "98.7 %", "-", "0.0807 ms"),
    ]
    assert len(COMBINED) == len(rows[0])
