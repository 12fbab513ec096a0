"""Progress on a terminal, in a pipe, and not at all."""

from __future__ import annotations

import io
import itertools
import re
from dataclasses import replace

import pytest
from rich.console import Console

from obs_onnx.passes.errors import OptionError
from obs_onnx.progress import Expecting, Progress, _Outlook, _Stage, _told, chosen, quiet
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
    assert "0/?" not in output.getvalue()
    lines = terminal_progress(console=pipe)
    assert run_stages(lines) == ["outer", "next"]
    lines.say("a message")
    assert isinstance(pipe.file, io.StringIO)
    assert pipe.file.getvalue() == "a message\n"
    assert terminal_progress(console=terminal, silent=True) is quiet
    assert terminal_progress() is terminal_progress()


def test_progress_recovers_when_a_stage_fails() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    progress = terminal_progress(console=console)
    with pytest.raises(ValueError, match="boom"), progress.stage("outer", 2), progress.stage("inner", 1):
        raise ValueError("boom")
    assert run_stages(progress) == ["outer", "next"]


def lines_of(text: str) -> list[str]:
    """What was ever shown in a line, without the codes that move the cursor."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize(
    "name", ["measure damage", "a name that is much longer than any stage of this program has " * 3]
)
def test_a_stage_is_one_line_that_fits(width: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 20)
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    progress = terminal_progress(console=console)
    with progress.stage(name, 4) as advance, progress.stage("inner", 3) as within:
        within(1)
        advance(1)
    lines = lines_of(console.file.getvalue())
    assert max(map(len, lines)) <= width
    assert sum(1 for line in lines if line.startswith(name[:8])) <= 2  # while it works, and once it is done


def test_time_left_is_that_of_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    stage = _Stage("refit", 4, 1, start=70.0)
    assert _told(stage, 79, True) == "refit  ━━━━────────────  1/4  30 s  about 1:30 left"
    assert _told(replace(stage, done=0), 79, False) == "refit  ................  0/4  30 s"
    assert _told(replace(stage, done=4), 79, False) == "refit  ################  4/4  30 s"
    assert _told(replace(stage, total=None), 79, True) == "refit  30 s"


def test_what_must_not_be_overlooked_looks_different() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    progress = terminal_progress(console=console)
    progress.say("so many groups")
    progress.say("warning: all samples are the same")
    plain, red = console.file.getvalue().splitlines()
    assert plain == "so many groups"
    assert red == "\x1b[1;31mwarning: all samples are the same\x1b[0m"


def test_what_may_be_asked_for() -> None:
    assert chosen(False) is quiet
    assert chosen(True) is terminal_progress()
    assert chosen("auto") is quiet  # nothing here is a terminal
    assert chosen(quiet) is quiet
    with pytest.raises(
        OptionError, match="progress 'loud': use True, False, 'auto' or an object of your own"
    ):
        chosen("loud")


def test_time_left_follows_from_what_was_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    outlook = _Outlook({"curves": (60.0, 1.0), "refit": (20.0, 2.0)})
    stage = _Stage("curves", 4)
    assert outlook.left(stage) == pytest.approx(100)
    now[0] = 160.0  # twice as slow as expected: half of the first stage took as long as all of it should
    stage.done = 2
    assert outlook.left(stage) == pytest.approx(70 * (60 + 10) / (30 + 10))
    outlook.end("curves")
    assert outlook.left(_Stage("curves", 4)) == pytest.approx(40 * (60 + 10) / (60 + 10))
    outlook.end("refit")
    assert outlook.left(_Stage("refit", 2, done=1)) == pytest.approx(10 * (60 + 10) / (90 + 10))
    outlook.end("refit")
    outlook.end("refit")
    assert outlook.left(_Stage("refit", 2)) == 0
    assert outlook.left(_Stage("another", 2)) is None
    assert "about 1:40 left of all" in _told(_Stage("curves", 4, start=now[0]), 80, False, 100.0)


def test_a_terminal_shows_what_was_expected() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    progress = terminal_progress(console=console)
    assert isinstance(progress, Expecting)
    progress.expect({"outer": (10.0, 1.0)})
    with progress.stage("outer", 2) as advance:
        advance(1)
    assert isinstance(console.file, io.StringIO)
    assert "left of all" in console.file.getvalue()
    assert not isinstance(quiet, Expecting)
