"""What reports say about outputs: never more than was compared."""

from __future__ import annotations

from dataclasses import replace

from sample_reports import a_report

from obs_onnx.report.quality_text import PARTS, measure_lines, measured_as, part_rows, quality_lines
from obs_onnx.results.pruning import PartError

BOXES = PartError("y[0:4]", "y", "", "spread", 54.9, 1.0, 0.01, 100.0)
SCORES = PartError("y[4:84]", "y", "/model.22/Sigmoid", "spread", 0.115, 2.0, 0.02, 1.0)


def test_the_worst_part_is_named() -> None:
    report = replace(a_report(), output_error=0.04, parts=(SCORES, BOXES), agreement=None, bound=None)
    (line,) = quality_lines(report)
    assert line == (
        "output error 0.04 (of y[4:84] from /model.22/Sigmoid, the worst of 2 parts, relative to its spread, "
        "times its weight 2, on held-out calibration data)"
    )
    rows = part_rows(report.parts)
    assert rows == [
        ("y[4:84]", "/model.22/Sigmoid", "spread 0.115", "2", "0.02"),
        ("y[0:4]", "-", "spread 54.9", "1", "0.01"),
    ]
    assert {len(row) for row in rows} == {len(PARTS)}


def test_one_part_needs_no_name() -> None:
    whole = replace(BOXES, name="y")
    report = replace(a_report(), output_error=0.01, parts=(whole,), agreement=0.9, bound=None)
    assert quality_lines(report) == [
        "output error 0.01 (relative to the spread of the output, on held-out calibration data)",
        "same top-1 class on 90.0 % of the held-out samples",
    ]
    assert part_rows(report.parts) == []


def test_each_task_has_its_words() -> None:
    report = replace(a_report(), output_error=None, agreement=0.5, bound=None, task="segmentation")
    report = replace(report, measures={"kl": 0.25, "miou_to_reference": 0.75})
    assert quality_lines(report) == [
        "same class at 50.0 % of the positions",
        "divergence of the class probabilities 0.25 nats (KL, per position)",
        "mean intersection over union with the dense model's classes 0.75",
    ]
    assert quality_lines(replace(report, task="language", measures={})) == [
        "same top-1 token on 50.0 % of the tokens"
    ]
    assert measure_lines("embedding", {"cosine": 0.99, "least_cosine": 0.9}) == [
        "cosine to the dense model's vectors 0.99, in the mean",
        "cosine to the dense model's vectors 0.9, at least",
    ]
    assert (measured_as(None), measured_as("language")) == ("", "measured as language")
