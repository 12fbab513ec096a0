"""No import hides in a function, but of packages that are heavy or may not be there, named here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from repository import ROOT

OPTIONAL = {"PIL", "dask", "distributed", "matplotlib", "onnxruntime", "openvino", "tokenizers"}
HEAVY = {"jinja2", "markupsafe", "psutil", "rich"}  # only for what is shown, or what a killed run left
ELSEWHERE = {"msvcrt"}  # on Windows alone
BEHIND = {  # modules of this package that are reached through a registry
    "obs_onnx.passes.ops",  # the tables of operators know the layers
    "obs_onnx.passes.graph",
}
MODULES = sorted([*(ROOT / "obs_onnx").rglob("*.py"), *(ROOT / "passes").rglob("*.py")])


def hidden(path: Path) -> set[str]:
    """What functions of a file import: modules of this package, or packages."""
    found = set()
    for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add(str(node.module))
    return {name if name.startswith("obs_onnx") else name.partition(".")[0] for name in found}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_stand_at_the_top(path: Path) -> None:
    allowed = OPTIONAL | HEAVY | ELSEWHERE | BEHIND
    if path.parent.name in ("cli", "entrypoints"):
        allowed = set()
    assert hidden(path) <= allowed
