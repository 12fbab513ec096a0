"""Progress on a terminal, in a pipe, and not at all."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from obs_onnx.progress import Progress, quiet
from obs_onnx.report import terminal_progress


def run_stages(progress: Progress) -> list[str]:
    done = []
    with progress.stage("outer", 2) as advance:
        with progress.stage("inner") as advance_inner:
            advance_inner(1)
        advance(2)
        done.append("outer")
    with progress.stage("next", 1) as advance:
        advance(1)
        done.append("next")
    return done


def test_progress_shows_bars_on_a_terminal_only() -> None:
    terminal = Console(file=io.StringIO(), width=100, force_terminal=True)
    pipe = Console(file=io.StringIO(), width=100, force_terminal=False)
    shown = terminal_progress(console=terminal)
    assert run_stages(shown) == run_stages(quiet) == ["outer", "next"]
    output = terminal.file
    assert isinstance(output, io.StringIO)
    assert "outer" in output.getvalue()
    assert "2/2" in output.getvalue()
    lines = terminal_progress(console=pipe)
    assert run_stages(lines) == ["outer", "next"]
    lines.say("a message")
    assert isinstance(pipe.file, io.StringIO)
    assert pipe.file.getvalue() == "a message\n"
    assert terminal_progress(console=terminal, silent=True) is quiet


def test_progress_recovers_when_a_stage_fails() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    progress = terminal_progress(console=console)
    with pytest.raises(ValueError, match="boom"), progress.stage("outer", 2), progress.stage("inner", 1):
        raise ValueError("boom")
    assert run_stages(progress) == ["outer", "next"]
