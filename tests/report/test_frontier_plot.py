"""A frontier drawn: what is on which axis, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from frontiers import a_frontier
from matplotlib.axes import Axes

from obs_onnx.passes.errors import MissingRuntimeError, OptionError
from obs_onnx.report.frontier_plot import write_frontier


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[float, float]]]:
    """Points by the label they are drawn with."""
    found: dict[str, list[tuple[float, float]]] = {}
    plot = Axes.plot

    def spy(self: Axes, x: tuple, y: tuple, **style: object) -> object:
        found[str(style["label"])] = list(zip(x, y, strict=True))
        return plot(self, x, y, **style)

    monkeypatch.setattr(Axes, "plot", spy)
    return found


def test_latency_against_error(tmp_path: Path, drawn) -> None:
    write_frontier(tmp_path / "a.svg", a_frontier())
    assert drawn == {
        "frontier": [(4.0, 0.0), (3.0, 0.01), (1.0, 0.1)],
        "dominated": [(2.9, 0.2)],
        "dense": [(4.0, 0.0)],
    }
    text = (tmp_path / "a.svg").read_text()
    assert "<svg" in text
    first = (tmp_path / "a.svg").read_bytes()
    write_frontier(tmp_path / "a.svg", a_frontier())
    assert (tmp_path / "a.svg").read_bytes() == first


@pytest.mark.parametrize(
    ("cost", "costs"),
    [
        ("macs", [1000, 700, 250]),
        ("params", [1000, 700, 250]),
        ("size", [4000, 2800, 1000]),
        ("ram", [1e4, 7e3, 2500]),
    ],
)
def test_other_costs_against_accuracy_in_percent(tmp_path: Path, drawn, cost: str, costs: list) -> None:
    write_frontier(tmp_path / "a.png", a_frontier(cost=cost, by="accuracy"))
    assert set(drawn) == {"frontier"}  # the others have no accuracy
    np.testing.assert_allclose(drawn["frontier"], [(costs[1], 90), (costs[2], 80)])
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="cannot write"):
        write_frontier(tmp_path / "no" / "a.svg", a_frontier())
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(MissingRuntimeError, match=r"obs-onnx\[report\]"):
        write_frontier(tmp_path / "a.svg", a_frontier())
