"""The two packages that import on first use: their tables agree with what type checkers see."""

from __future__ import annotations

import ast
import importlib
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import obs_onnx
import obs_onnx.passes


def declared(package: ModuleType) -> dict[str, str]:
    """Name -> module of the imports under ``if TYPE_CHECKING``."""
    tree = ast.parse(Path(str(package.__file__)).read_text())
    blocks = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return {
        alias.name: str(statement.module)
        for block in blocks
        for statement in block.body
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


@pytest.mark.parametrize("package", [obs_onnx, obs_onnx.passes], ids=lambda package: package.__name__)
def test_names_that_are_imported_on_first_use_are_those_that_are_declared(package: ModuleType) -> None:
    homes = {name: f"{package.__name__}.{home}" for name, home in package._HOMES.items()}
    assert homes == declared(package)
    assert {*homes, "__version__"} >= set(package.__all__) >= set(homes)
    for name, home in homes.items():
        assert getattr(package, name) is getattr(importlib.import_module(home), name)


@pytest.mark.parametrize("package", [obs_onnx, obs_onnx.passes], ids=lambda package: package.__name__)
def test_a_name_that_is_not_there_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="nowhere"):
        _ = package.nowhere


@pytest.mark.skipif(find_spec("torch") is not None, reason="is about a place without the package torch")
def test_a_room_whose_package_is_missing_says_what_to_install() -> None:
    with pytest.raises(ImportError, match=r"pip install 'obs-onnx\[torch\]'"):
        importlib.import_module("obs_onnx.torch")
