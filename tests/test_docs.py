"""Documents name what is there, and the picture of the house shows the house that stands."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pages import anchors, blocks, links
from repository import DOCS, ROOT

from obs_onnx.cli import main

TEXTS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
SCRIPTS = [*sorted((ROOT / "benchmarks").glob("*.py")), *sorted((ROOT / "models").glob("*.py"))]
FACES = {"obs_onnx": ROOT / "obs_onnx", "obs_onnx.passes": ROOT / "passes"}


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(text: Path) -> None:
    missing = []
    for link in links(text):
        name, _, place = link.partition("#")
        file = text.parent / name if name else text
        if not file.exists() or (place and place not in anchors(file)):
            missing.append(link)
    assert missing == []


def test_every_page_is_in_the_menu_of_the_site() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for one in (entry.values() if isinstance(entry, dict) else entry) for page in pages(one)]

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(pages(site["nav"])) == sorted(
        path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")
    )
    assert all((ROOT / hook).is_file() for hook in site["hooks"])


def test_links_out_of_the_site_show_the_path() -> None:
    shown = runpy.run_path(str(DOCS / "site_links.py"))["on_page_markdown"]
    assert shown("[a](b.md) and [c](../d/e.py#f)", page=None) == "[a](b.md) and c (`d/e.py`)"
    assert shown("[CONTRIBUTING.md](../CONTRIBUTING.md)") == "`CONTRIBUTING.md`"


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_python_in_them_can_be_read(text: Path) -> None:
    for block in blocks(text):
        if block.language == "python":
            ast.parse(block.text)


def commands(text: Path) -> list[str]:
    """Lines that call the program, as a reader would type them."""
    lines = [line.partition(" #")[0].strip() for block in blocks(text) for line in block.text.splitlines()]
    lines = [part for line in lines for part in line.split(" && ")]
    return [line for line in lines if re.match(r"obs-onnx [a-z]", line) and " | " not in line]


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_commands_in_them_are_commands(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in commands(text):
        if "..." in line or "[" in line or "--config" in line:
            continue  # a form, or with a file that has to be there
        _, name, *arguments = shlex.split(line)
        command = main.get_command(click.Context(main), name)
        assert command is not None, line
        command.make_context(name, arguments, resilient_parsing=False)


def test_the_lines_of_the_readme_are_complete() -> None:
    """The first runs the main job on a fresh machine, the second the tests; ``.ci/run`` runs both."""
    lines = [block.text.strip() for block in blocks(ROOT / "README.md") if block.language == "sh"]
    assert lines == [
        'pip install ".[cpu]" && obs-onnx prune models/digits_mlp.onnx',
        'pip install ".[cpu,test]" && pytest',
    ]
    extras = re.search(
        r"\[project.optional-dependencies\](.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.S
    )
    assert extras is not None
    assert all(re.search(rf"^{name} = ", extras[1], re.M) for name in ("cpu", "test", "docs"))


def test_results_are_those_of_the_file() -> None:
    script = runpy.run_path(str(DOCS / "make_results.py"))
    tables, readme = script["read"](), (ROOT / "README.md").read_text(encoding="utf-8")
    assert (DOCS / "results.md").read_text(encoding="utf-8") == script["page"](tables), (
        "run python docs/make_results.py"
    )
    assert readme == script["readme"](readme, tables), "run python docs/make_results.py"
    assert {one["script"] for one in tables.values()} <= {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks").glob("*.py")
    }
    assert {one.name for one in script["TABLES"]} >= set(tables)


def test_figures_without_a_row_are_no_results() -> None:
    script = runpy.run_path(str(DOCS / "make_results.py"))
    made = {"date": "2026-01-01", "cpu": "a", "onnxruntime": "1.30"}
    old, new = {"net": "a", "target": "macs=0.5", "dense": 90.0}, {"net": "b", "macs": None, "made": made}
    page = script["page"]({"channels": {"script": "benchmarks/channels.py", "rows": [old, new]}})
    assert "| a (90.0) | macs=0.5 |\n|  |  |" in page  # no columns of figures that no row has
    assert "Measured with 2026-01-01, a, onnxruntime 1.30. 1 of the rows come from an earlier version" in page
    with pytest.raises(SystemExit, match="channels has no row"):
        script["short"]({"channels": {"script": "", "rows": [old]}})


def test_the_picture_of_the_readme_is_that_of_a_run_today() -> None:
    picture = runpy.run_path(str(DOCS / "make_picture.py"))
    today, drawn = (
        picture["record"]().export_text(),
        picture["drawn"](picture["PICTURE"].read_text(encoding="utf-8")),
    )
    assert picture["shape"](drawn) == picture["shape"](today), "run python docs/make_picture.py"


def test_the_page_of_the_python_interface_is_that_of_the_docstrings() -> None:
    script = runpy.run_path(str(DOCS / "make_api.py"))
    assert (DOCS / "api.md").read_text(encoding="utf-8") == script["page"](), "run python docs/make_api.py"


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
