"""A criterion against the oracle, drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from obs_onnx.passes.errors import MissingRuntimeError, OptionError
from obs_onnx.report.criterion_plot import check_plot, write_scatter


def test_what_is_not_positive_lies_below_all_that_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[np.ndarray, np.ndarray, object]] = []
    scatter = Axes.scatter

    def spy(self: Axes, x: np.ndarray, y: np.ndarray, **style: object) -> object:
        found.append((x, y, style["label"]))
        return scatter(self, x, y, **style)

    monkeypatch.setattr(Axes, "scatter", spy)
    groups = [
        ("a", np.array([0.0, 2.0, -1.0]), np.array([4.0, 0.0, 8.0])),
        ("b", np.array([1.0, 8.0]), np.array([1.0, 2.0])),
    ]
    write_scatter(tmp_path / "a.svg", groups, "taylor", "title")
    np.testing.assert_array_equal(found[0][0], [0.5, 2, 0.5])
    np.testing.assert_array_equal(found[0][1], [4, 0.5, 8])
    np.testing.assert_array_equal(found[1][:2], [[1, 8], [1, 2]])
    assert [label for *_, label in found] == ["a", "b"]
    found.clear()
    many = [(str(i), np.ones(2), np.ones(2)) for i in range(11)]
    write_scatter(tmp_path / "a.png", many, "taylor", "title")
    assert {label for *_, label in found} == {None}


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.pdf", "a"):
        with pytest.raises(OptionError, match=r"has to end in \.svg or \.png"):
            check_plot(tmp_path / name)
    check_plot(tmp_path / "a.SVG")
    with pytest.raises(OptionError, match="cannot write"):
        write_scatter(tmp_path / "no" / "a.svg", [("a", np.ones(1), np.ones(1))], "x", "y")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingRuntimeError, match=r"obs-onnx\[report\]"):
        check_plot(tmp_path / "a.svg")
