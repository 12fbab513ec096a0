"""Elements of SVG, of which every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element, SubElement, tostring

from obs_onnx.passes.printable import printable

__all__ = ["Picture", "number", "shortened", "without_ending"]


def number(value: float) -> str:
    """A coordinate, to a tenth."""
    return f"{value:.1f}".removesuffix(".0")


def shortened(text: str, most: int) -> str:
    """A name of ``most`` characters: its middle is left out, as both ends tell it from others."""
    text = printable(text)
    if len(text) <= most:
        return text
    head = (most - 1) // 3
    return f"{text[:head]}…{text[len(text) - (most - 1 - head) :]}"


def without_ending(names: Sequence[str]) -> list[str]:
    """Names without the last part (``.weight``), where it is the same in all of them."""
    endings = {name[name.rfind(".") :] if "." in name[1:] else "" for name in names}
    if len(endings) != 1:
        return list(names)
    (ending,) = endings
    return [name.removesuffix(ending) for name in names]


class Picture:
    """A picture of a size in units that the page scales; colours are those of the classes of its style.

    Args:
        width, height: in units.
        label: what it shows, for those who do not see it.
    """

    def __init__(self, width: float, height: float, label: str) -> None:
        size = f"0 0 {number(width)} {number(height)}"
        self._root = Element("svg", {"viewBox": size, "role": "img", "aria-label": printable(label)})
        SubElement(self._root, "title").text = printable(label)

    def rectangle(self, x: float, y: float, width: float, height: float, kind: str, tip: str = "") -> None:
        """A box; ``tip`` shows where the pointer rests."""
        place = {"x": number(x), "y": number(y), "width": number(max(width, 0)), "height": number(height)}
        self._tipped(SubElement(self._root, "rect", {**place, "class": kind}), tip)

    def line(self, points: Iterable[tuple[float, float]], kind: str, tip: str = "") -> None:
        """A line through points."""
        self._tipped(SubElement(self._root, "polyline", {"points": _listed(points), "class": kind}), tip)

    def area(self, points: Iterable[tuple[float, float]], kind: str) -> None:
        """A polygon."""
        SubElement(self._root, "polygon", {"points": _listed(points), "class": kind})

    def dot(self, x: float, y: float, kind: str, tip: str = "") -> None:
        """A point."""
        made = SubElement(self._root, "circle", {"cx": number(x), "cy": number(y), "r": "3", "class": kind})
        self._tipped(made, tip)

    def text(self, x: float, y: float, text: str, kind: str = "", tip: str = "") -> None:
        """Text whose base line begins at a place; the class says how it is set."""
        made = SubElement(self._root, "text", {"x": number(x), "y": number(y), "class": kind})
        made.text = printable(text)
        self._tipped(made, tip)

    def markup(self) -> str:
        """The picture, to be put into a page."""
        return tostring(self._root, encoding="unicode")

    def _tipped(self, element: Element, tip: str) -> None:
        if tip:
            SubElement(element, "title").text = printable(tip)


def _listed(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{number(x)},{number(y)}" for x, y in points)
