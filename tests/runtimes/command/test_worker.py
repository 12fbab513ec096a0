"""The worker as a whole: it runs where nothing of this project is."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from obs_onnx.runtimes.command import worker

FILES = sorted(Path(worker.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_files_are_for_old_pythons_and_need_nothing_of_this_project(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = {
        ("." * node.level + (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    own = {f".{file.stem}" for file in FILES}
    others = {name.split(".")[0] for name in imported - own}
    assert others - set(sys.stdlib_module_names) <= {"numpy", "onnxruntime"}
