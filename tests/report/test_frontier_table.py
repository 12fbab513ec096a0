"""Rows of a frontier."""

from __future__ import annotations

from frontiers import a_frontier, point

from obs_onnx.report.frontier_table import COLUMNS, frontier_line, frontier_rows


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


def test_one_line() -> None:
    assert frontier_line(a_frontier()) == (
        "models/a.onnx -> out: 2 models, latency 4.00 ms x 0.75 .. 0.25, MACs 1,000 x 0.7 .. 0.25, "
        "file 4.0 kB x 0.7 .. 0.25, output error 0.01 .. 0.1, accuracy 90.00 % .. 80.00 %"
    )
    one = a_frontier(output=None, points=(point(None, 0.5, 100),))
    assert frontier_line(one) == (
        "models/a.onnx -> memory: 1 model, MACs 1,000 x 0.1, file 4.0 kB x 0.1, output error 0.5"
    )
    assert frontier_line(a_frontier(points=())) == "models/a.onnx -> out: nothing was found that costs less"
