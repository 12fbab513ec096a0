"""The picture of the network has the widths of the layers."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from obs_onnx.report.page.network import draw_network
from obs_onnx.results.pruning import LayerResult


def layer(name: str, before: int, after: int | None, **more: object) -> LayerResult:
    kept = None if after is None else (1, after)
    return LayerResult(name, "Conv", (before, 1), before, 0.5, widths=(1, before), kept_widths=kept, **more)  # type: ignore[arg-type]


def drawn(*layers: LayerResult) -> tuple[list[tuple[float, float]], list[str], int]:
    """Lengths of the bars of each layer (before, after), texts, and bands."""
    root = ElementTree.fromstring(draw_network(layers))
    boxes = [(str(one.get("class")), float(str(one.get("width")))) for one in root.iter("rect")]
    before = [width for kind, width in boxes if kind == "dense"]
    after = [width for kind, width in boxes if kind == "kept"]
    bands = [one for one in root.iter("polyline") if "band" in str(one.get("class"))]
    limit = float(str(root.get("viewBox")).split()[2])
    for one in root.iter("rect"):
        assert float(str(one.get("x"))) >= 0
        assert float(str(one.get("x"))) + float(str(one.get("width"))) <= limit
    return list(zip(before, after, strict=True)), [str(one.text) for one in root.iter("text")], len(bands)


def test_bars_are_as_long_as_layers_are_wide() -> None:
    bars, texts, bands = drawn(layer("a.w", 64, 16), layer("b.w", 16, 16), layer("c.w", 64, 0))
    assert bars[1][0] == pytest.approx(bars[0][0] / 2, abs=0.1)
    assert [after / before for before, after in bars] == pytest.approx([0.25, 1, 0], abs=0.01)
    assert texts == ["a", "64 → 16", "b", "16", "c", "64 → 0"]
    assert bands == 0


def test_zeros_leave_the_widths_and_show_the_weights() -> None:
    bars, texts, _ = drawn(layer("a", 64, None))
    assert bars[0][1] == pytest.approx(bars[0][0] / 2, abs=0.1)
    assert texts == ["a", "50 %"]


def test_channels_that_several_layers_write_are_bands() -> None:
    stream = [layer(f"l{i}", 8, 8, writes="s" if i % 2 else f"own{i}", reads="s") for i in range(6)]
    _, _, bands = drawn(*stream)
    assert bands == 1 + 3  # one band, and where each of the three goes in
    many = [layer(f"l{i}.{j}", 8, 8, writes=f"s{i}") for j in range(2) for i in range(20)]
    drawn(*many)  # more than there is room for


def test_nothing_is_drawn_of_what_is_not_known() -> None:
    assert draw_network([LayerResult("a", "Conv", (1,), 1, 1.0)]) == ""
    assert draw_network([]) == ""
