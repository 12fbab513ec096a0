"""Documents name what is there, and the picture of the house shows the house that stands."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from repository import DOCS, ROOT

TEXTS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
SCRIPTS = [*sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "models").glob("*.py"))]
FACES = {"obs_onnx": ROOT / "obs_onnx", "obs_onnx.passes": ROOT / "passes"}


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_links_lead_to_files(text: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text.read_text())
    assert [link for link in links if not (text.parent / link).exists()] == []


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_files_that_are_named_are_there(text: Path) -> None:
    """A path, or the end of one."""
    named = re.findall(r"`((?:[\w.]+/)+[\w.]+\.py)`", text.read_text())
    files = [path.as_posix() for path in ROOT.rglob("*.py")]
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in files)] == []


@pytest.mark.parametrize("script", [*TEXTS, *SCRIPTS], ids=lambda path: path.name)
def test_modules_that_are_named_are_there(script: Path) -> None:
    """``obs_onnx.room.module``, possibly followed by the name of something in it."""
    missing = []
    for name in set(re.findall(r"\bobs_onnx((?:\.[a-z_0-9]+)+)", script.read_text())):
        room, *rest = name.strip(".").split(".")
        folder = ROOT / "passes" if room == "passes" else ROOT / "obs_onnx" / room
        while rest and (folder / rest[0]).is_dir():
            folder, rest = folder / rest[0], rest[1:]
        inside = "" if not folder.is_dir() else (folder / "__init__.py").read_text()
        if rest and (folder / f"{rest[0]}.py").is_file():
            continue
        if folder.is_dir() and (not rest or re.search(rf"\b{rest[0]}\b", inside)):
            continue
        if not rest and (
            folder.with_suffix(".py").is_file() or room in (ROOT / "obs_onnx/__init__.py").read_text()
        ):
            continue
        missing.append(name)
    assert missing == []


def test_every_room_has_a_link_to_its_face() -> None:
    links = set(re.findall(r"\]\(\.\./([\w/]+)/__init__\.py\)", (DOCS / "architecture.md").read_text()))
    faces = {
        path.parent.relative_to(ROOT).as_posix()
        for folder in FACES.values()
        for path in folder.glob("*/__init__.py")
    }
    assert links == faces | {"passes"}


def test_the_picture_is_that_of_the_house() -> None:
    drawn = runpy.run_path(str(DOCS / "make_house.py"))["draw"]()
    assert (DOCS / "house.svg").read_text() == drawn, "run python docs/make_house.py"


def test_the_picture_shows_every_room_once_and_no_text_reaches_over_another() -> None:
    house = runpy.run_path(str(DOCS / "make_house.py"))
    svg = house["draw"]()
    doors = re.findall(r'<text class="room" x="([\d.]+)" y="([\d.]+)">([^<]+)</text>', svg)
    rooms = [room for package in FACES for floor in house["floors"](package) for room in floor]
    assert [door.split()[0].removesuffix(".py") for *_, door in doors] == rooms
    boxes = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="(\d+)" rx', svg)
    assert len(boxes) == len(doors)
    placed = [tuple(map(float, box)) for box in boxes]
    for (x, y, width, height), (middle, base, text) in zip(placed, doors, strict=True):
        assert float(middle) == pytest.approx(x + width / 2, abs=0.1)
        assert y < float(base) < y + height
        assert 8.4 * len(text) <= width
    for number, (x, y, width, height) in enumerate(placed):
        for u, v, other, _ in placed[number + 1 :]:
            assert v >= y + height or u >= x + width or u + other <= x
