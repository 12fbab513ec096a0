"""Draw the house: the floors that the import contracts in pyproject.toml set, and the size of each room.

python docs/make_house.py        # writes docs/house.svg
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # before Python 3.11
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "house.svg"
FOLDERS = {"obs_onnx": ROOT / "obs_onnx", "obs_onnx.passes": ROOT / "passes"}

WIDTH, HEIGHT, GAP, MARGIN = 880, 32, 6, 16
HEAD = 34  # above the floors of a package
LETTER = 8.4  # pixels of a character at most, in a fixed-width font of 14


def floors(package: str) -> list[list[str]]:
    """Rooms by floor, from the roof down, as the contract of a package has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (one["layers"] for one in contracts if one.get("containers") == [package])
    return [re.split(r" [|:] ", layer) for layer in layers]


def modules(package: str, room: str) -> int:
    """Files of a room but its faces; one for a room that is a file."""
    folder = FOLDERS.get(f"{package}.{room}", FOLDERS[package] / room)
    if not folder.is_dir():
        return 1
    return sum(path.name != "__init__.py" for path in folder.rglob("*.py"))


def label(package: str, room: str) -> str:
    """What stands on a room's door."""
    count = modules(package, room)
    name = room if (FOLDERS[package] / room).is_dir() or room == "passes" else f"{room}.py"
    return name if name.endswith(".py") else f"{name} {count}"


def box(x: float, y: float, width: float, text: str) -> str:
    """One room; its text must fit."""
    assert len(text) * LETTER <= width, f"{text!r} does not fit into {width:.0f} pixels"
    middle = f'x="{x + width / 2:.1f}" y="{y + HEIGHT / 2 + 5:.1f}"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEIGHT}" rx="4"/>'
        f'<text class="room" {middle}>{escape(text)}</text>'
    )


def block(package: str, note: str, top: float) -> tuple[list[str], float]:
    """The floors of a package, and where they end."""
    lines = [f'<text class="head" x="{MARGIN}" y="{top + 20:.1f}">{escape(f"{package}: {note}")}</text>']
    y = top + HEAD
    for rooms in floors(package):
        width = (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms)
        lines += [
            box(MARGIN + number * (width + GAP), y, width, label(package, room))
            for number, room in enumerate(rooms)
        ]
        y += HEIGHT + GAP
    return lines, y


def draw() -> str:
    """The picture."""
    upper, end = block("obs_onnx", "a room imports from the floors below it only (numbers: modules)", MARGIN)
    lower, end = block("obs_onnx.passes", "the same, inside the room passes", end + GAP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {end + MARGIN:.0f}"'
            f' width="{WIDTH}" height="{end + MARGIN:.0f}">',
            "<title>Rooms of obs-onnx by floor, with their numbers of modules</title>",
            "<style>",
            "rect { fill: #eef2f7; stroke: #7b8794; }",
            "text { font-family: monospace; font-size: 14px; fill: #1f2933; }",
            ".room { text-anchor: middle; }",
            ".head { font-weight: bold; }",
            "</style>",
            '<rect x="0" y="0" width="100%" height="100%" style="fill: white; stroke: none"/>',
            *upper,
            *lower,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw())
