"""Rooms stay readable: every folder has a face, no module and no function is long."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from repository import ROOT

LINES, CODE, MODULES = 400, 60, 12  # of a module, of a function without its docstring, in a room

SOURCES = sorted(path for folder in ("obs_onnx", "passes") for path in (ROOT / folder).rglob("*.py"))
ROOMS = sorted({path.parent for path in SOURCES})


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("room", ROOMS, ids=named)
def test_a_room_has_a_face_and_few_modules(room: Path) -> None:
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8")))
    assert text
    if room.parent != ROOT:
        assert all(f"{word}:" in text for word in ("In", "Out", "Next") if room.name != "worker"), text
    modules = [path for path in room.glob("*.py") if not path.name.startswith("__")]
    assert len(modules) <= MODULES


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            length = node.end_lineno - body[0].lineno + 1 if body else 0
            assert length <= CODE, f"{named(path)}: {node.name} has {length} lines"


def test_every_room_is_in_the_wheel() -> None:
    rooms = {named(face.parent).replace("/", ".") for face in SOURCES if face.name == "__init__.py"}
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = set(re.findall(r'^  "(obs_onnx[\w.]*)",$', text[text.index("packages = [") :], re.MULTILINE))
    assert listed == {room if room.startswith("obs_onnx") else f"obs_onnx.{room}" for room in rooms}
