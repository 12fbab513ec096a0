"""What is shown on stderr while a run works: one line for the stage at work, with the time it took and takes.

    with progress.stage("calibrate", total=2048) as advance:
        for batch in batches:
            ...
            advance(len(batch))

Stages may be nested: the innermost one is shown. A stage that took a while leaves a line behind. Where
stderr is no terminal only messages are shown.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

__all__ = ["Advance", "Expecting", "Progress", "ProgressLike", "chosen", "quiet", "terminal_progress"]

_WARNING = "warning: "  # what messages begin with that must not be overlooked
_BAR, _NAME = 16, 12  # columns of a bar, and of a name at least
_REFRESH = 8.0  # per second
_TRUSTED = 0.1  # share of a forecast that counts as much as what was seen
_LONG, _MINUTE = 1.0, 60.0  # seconds of a stage that leaves a line

Advance = Callable[[int], None]
"""Reports that so many more units of the stage's total are done."""


class Progress(Protocol):
    """Something that shows how far a stage has come."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` units (None: unknown) for the time of the ``with`` block."""

    def say(self, message: str) -> None:
        """Show one line that stays."""


@runtime_checkable
class Expecting(Protocol):
    """Something that shows how long stages to come will take."""

    def expect(self, stages: Mapping[str, tuple[float, float]]) -> None:
        """Seconds of a stage each time that it comes, and how often it does, by its name."""


class _Quiet:
    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda units: None

    def say(self, message: str) -> None:
        pass


@dataclass
class _Stage:
    """A stage at work."""

    name: str
    total: int | None
    done: int = 0
    start: float = field(default_factory=time.monotonic)


class _Outlook:
    """How long stages to come will take, as they were expected to and as fast as they go.

    Args:
        stages: see :meth:`Expecting.expect`.
    """

    def __init__(self, stages: Mapping[str, tuple[float, float]]) -> None:
        self._stages, self._ended = dict(stages), dict[str, float]()
        self._whole = sum(seconds * times for seconds, times in stages.values())
        self._start = time.monotonic()

    def end(self, name: str) -> None:
        """A stage ended."""
        if name in self._stages:
            self._ended[name] = min(self._ended.get(name, 0.0) + 1.0, self._stages[name][1])

    def left(self, stage: _Stage) -> float | None:
        """Seconds until all are over, where ``stage`` is at work; None where nothing is known of it."""
        if stage.name not in self._stages or not self._whole:
            return None
        done = sum(self._stages[name][0] * times for name, times in self._ended.items())
        seconds, times = self._stages[stage.name]
        if stage.total and self._ended.get(stage.name, 0.0) < times:
            done += seconds * min(stage.done / stage.total, 1.0)
        passed = time.monotonic() - self._start
        trusted = _TRUSTED * self._whole  # of the forecast, before the pace of the run counts for more
        return (self._whole - done) * (passed + trusted) / (done + trusted)


class _Shown:
    """Lines on a console, of which the last one moves if it is a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stages: list[_Stage] = []
        self._live: Live | None = None
        self._outlook: _Outlook | None = None

    def expect(self, stages: Mapping[str, tuple[float, float]]) -> None:
        self._outlook = _Outlook(stages)

    def say(self, message: str) -> None:
        style = "bold red" if message.startswith(_WARNING) else None
        self._console.print(printable(message), style=style, markup=False, highlight=False)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        stage = _Stage(printable(name), total or None)
        self._stages.append(stage)
        outermost = self._live is None and self._console.is_terminal
        if outermost:
            self._open()
        try:
            yield lambda units: self._advance(stage, units)
        finally:
            self._stages.remove(stage)
            if self._outlook is not None:
                self._outlook.end(stage.name)
            if outermost:
                self._close(stage)

    def _open(self) -> None:
        from rich.live import Live

        self._live = Live(
            get_renderable=self._line,
            console=self._console,
            transient=True,
            refresh_per_second=_REFRESH,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start(refresh=True)

    def _close(self, stage: _Stage) -> None:
        assert self._live is not None
        self._live.stop()
        self._live = None
        passed = time.monotonic() - stage.start
        if passed >= _LONG:
            text = f"{stage.name} {_clock(passed)}"
            self._console.print(text, style="dim", markup=False, highlight=False, no_wrap=True)

    def _advance(self, stage: _Stage, units: int) -> None:
        stage.done += units

    def _line(self) -> Text:
        """The innermost stage, in one line that fits."""
        from rich.text import Text

        if not self._stages:
            return Text("")
        stage = self._stages[-1]
        fancy = (self._console.encoding or "ascii").lower().startswith("utf")
        left = None if self._outlook is None else self._outlook.left(stage)
        return Text(_told(stage, self._console.width - 1, fancy, left), no_wrap=True, overflow="ellipsis")


def _told(stage: _Stage, width: int, fancy: bool, left: float | None = None) -> str:
    """A stage in ``width`` columns: how far it is, how long it took and, once that is known, will take.

    Where it is known how long everything will take (``left`` seconds), that is told instead.
    """
    passed = time.monotonic() - stage.start
    parts = [_clock(passed)]
    if stage.total is not None:
        done = min(stage.done, stage.total)
        parts.insert(0, f"{done}/{stage.total}")
        if 0 < done < stage.total and left is None:
            parts.append(f"about {_clock(passed / done * (stage.total - done))} left")
        cells = round(_BAR * done / stage.total)
        full, empty = ("━", "─") if fancy else ("#", ".")
        parts.insert(0, full * cells + empty * (_BAR - cells))
    if left is not None:
        parts.append(f"about {_clock(left)} left of all")
    tail = "  ".join(parts)
    room = max(width - len(tail) - 2, _NAME)
    name = stage.name if len(stage.name) <= room else f"{stage.name[: room - 1]}{'…' if fancy else '.'}"
    return f"{name}  {tail}"[: max(width, _NAME)]


def _clock(seconds: float) -> str:
    """``0.4 s``, ``14 s``, ``2:05``, ``1:02:05``."""
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


quiet: Progress = _Quiet()
"""Shows nothing."""


def terminal_progress(*, silent: bool = False, console: Console | None = None) -> Progress:
    """What shows stages on ``console`` (default stderr); only messages if it is no terminal.

    Args:
        silent: nothing is shown.
        console: by default one that all share, as stages of different places are nested.
    """
    if silent:
        return quiet
    return _stderr() if console is None else _Shown(console)


@cache
def _stderr() -> _Shown:
    from rich.console import Console

    return _Shown(Console(stderr=True))


ProgressLike: TypeAlias = Progress | bool | Literal["auto"]
"""True: on the terminal, or line by line; "auto": on a terminal alone; False: nowhere."""


def chosen(progress: ProgressLike) -> Progress:
    """What shows progress, of what may be asked for.

    Raises:
        OptionError: it is none of it.
    """
    if isinstance(progress, bool):
        return terminal_progress(silent=not progress)
    if progress == "auto":
        return _stderr() if sys.stderr.isatty() else quiet
    if not all(callable(getattr(progress, name, None)) for name in ("stage", "say")):
        raise OptionError(
            f"{named('progress')} {progress!r}: use True, False, 'auto' or an object of your own"
        )
    return progress
