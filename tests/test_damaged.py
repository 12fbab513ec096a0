"""Damaged models, data and command lines end in one line and the exit code of bad input, and in nothing else.

``python benchmarks/damaged.py`` runs thousands of them, with limits on time and memory.
"""

from __future__ import annotations

import faulthandler
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from damage import case

from obs_onnx.cli import main

BATCH = 60


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """No case hangs; warnings of libraries are theirs, as on the command line."""
    faulthandler.dump_traceback_later(120, exit=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    faulthandler.cancel_dump_traceback_later()


def check(number: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    monkeypatch.chdir(folder)
    one = case(number, folder)
    before = set(folder.rglob("*"))
    result = CliRunner().invoke(main, one.arguments)
    told = f"case {number}: {' '.join(one.arguments)[:300]}\n{result.stderr}"
    assert result.exit_code in (0, 2, 3), told
    assert "internal error" not in result.stderr, told
    assert (result.stdout + result.stderr).replace("\n", "").isprintable(), told
    if result.exit_code == 2:
        assert len(result.stderr.splitlines()) == 1, told
        assert set(folder.rglob("*")) == before, told


@pytest.mark.parametrize("first", range(0, 300, BATCH))
def test_damage_is_told_in_one_line(first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(first, first + BATCH):
        check(number, tmp_path / str(number), monkeypatch)
