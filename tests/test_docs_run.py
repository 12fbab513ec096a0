"""Blocks of the documents that are marked ``<!-- run -->`` run as they stand, beside the bundled model."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pages import Block, blocks
from repository import DOCS, MODELS

PAGES = [page for page in sorted(DOCS.glob("*.md")) if any(block.runs for block in blocks(page))]
HERE = ("digits_mlp.onnx", "digits_mlp.calib.npz", "digits_mlp.test.npz")


def series(page: Path) -> dict[tuple[str, ...], list[Block]]:
    """Blocks that run, in order, by the packages that they need."""
    found: dict[tuple[str, ...], list[Block]] = {}
    for block in blocks(page):
        if block.runs:
            found.setdefault(block.packages, []).append(block)
    return found


CASES = [(page, packages) for page in PAGES for packages in series(page)]


@pytest.mark.parametrize(
    ("page", "packages"), CASES, ids=[f"{page.name} {' '.join(packages)}" for page, packages in CASES]
)
def test_blocks_run(page: Path, packages: tuple[str, ...], tmp_path: Path) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs the packages {', '.join(missing)}")
    for name in HERE:
        shutil.copy(MODELS / name, tmp_path)
    program = tmp_path / "bin" / "obs-onnx"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m obs_onnx "$@"\n')
    program.chmod(0o755)
    python = ""
    for block in series(page)[packages]:
        if block.language == "python":
            python += block.text  # what a reader types into one session
            continue
        _run([sys.executable, "-c", python], tmp_path)
        python = ""
        _run(["sh", "-euc", block.text], tmp_path)
    _run([sys.executable, "-c", python], tmp_path)


def _run(command: list[str], folder: Path) -> None:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
