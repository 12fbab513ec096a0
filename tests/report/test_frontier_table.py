"""Rows of a frontier."""

from __future__ import annotations

from frontiers import a_frontier, point

from obs_onnx.report.frontier_table import COLUMNS, frontier_rows


def test_the_dense_model_and_what_nothing_dominates() -> None:
    rows = frontier_rows(a_frontier())
    assert rows == [
        ("dense", "4.00 ms", "100.0 %", "100.0 %", "4.0 kB", "0", "100.0 %", "-", "-", "-"),
        ("01", "3.00 ms", "75.0 %", "70.0 %", "2.8 kB", "0.01", "99.0 %", "90.00 %", "-", "-"),
        ("02", "1.00 ms", "25.0 %", "25.0 %", "1.0 kB", "0.1", "90.0 %", "80.00 %", "-", "-"),
    ]
    assert {len(row) for row in rows} == {len(COLUMNS)}


def test_what_was_not_measured_is_a_dash() -> None:
    (dense, _, _) = frontier_rows(a_frontier(dense=point(None, None, 0)))
    assert dense == ("dense", "-", "-", "-", "0 B", "-", "-", "-", "-", "-")
