"""No import hides in a function, but of packages that are optional or costly and not always needed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

OPTIONAL = {
    "PIL": "extra images",
    "jinja2": "only for a report as a page",
    "matplotlib": "extra report",
    "msvcrt": "only on Windows",
    "onnxruntime": "an extra of its own for each flavour, found missing with advice",
    "openvino": "extra openvino",
    "rich": "only where a terminal is written to",
}
FILES = sorted(path for room in ("obs_onnx", "passes") for path in (ROOT / room).rglob("*.py"))


def hidden(path: Path) -> Iterator[tuple[int, str]]:
    """Line and package of every import in a function; relative ones as they are."""
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield node.lineno, "." * node.level + (node.module or "").split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stand_at_the_top(path: Path) -> None:
    assert [(line, name) for line, name in hidden(path) if name not in OPTIONAL] == []


def test_the_list_has_nothing_that_is_not_used() -> None:
    assert OPTIONAL.keys() <= {name for path in FILES for _, name in hidden(path)}
