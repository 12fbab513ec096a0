"""Bars on stderr while a run works: one per stage, with the time elapsed and left.

    with progress.stage("calibrate", total=2048) as advance:
        for batch in batches:
            ...
            advance(len(batch))

Stages may be nested; an inner bar disappears when its stage ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars

__all__ = ["Advance", "Progress", "ProgressLike", "chosen", "quiet", "terminal_progress"]

Advance = Callable[[int], None]
"""Reports that so many more units of the stage's total are done."""


class Progress(Protocol):
    """Something that shows how far a stage has come."""

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` units (None: unknown) for the time of the ``with`` block."""

    def say(self, message: str) -> None:
        """Show one line that stays."""


class _Quiet:
    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        yield lambda units: None

    def say(self, message: str) -> None:
        pass


class _Lines(_Quiet):
    def __init__(self, console: Console) -> None:
        self._console = console

    def say(self, message: str) -> None:
        self._console.print(printable(message), markup=False, highlight=False)


class _Terminal(_Lines):
    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bars: Bars | None = None

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        if self._bars is None:
            with self._outermost():
                yield self._advance(name, total)
        else:
            advance = self._advance(name, total)
            task = self._bars.task_ids[-1]
            try:
                yield advance
            finally:
                self._bars.remove_task(task)

    @contextmanager
    def _outermost(self) -> Iterator[None]:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Bars(*columns, console=self._console, expand=False) as self._bars:
            try:
                yield
            finally:
                self._bars = None

    def _advance(self, name: str, total: int | None) -> Advance:
        bars = self._bars
        assert bars is not None
        task = bars.add_task(printable(name), total=total)
        return lambda units: bars.advance(task, units)


quiet: Progress = _Quiet()
"""Shows nothing."""


def terminal_progress(*, silent: bool = False, console: Console | None = None) -> Progress:
    """Bars on ``console`` (default stderr); only messages if that is no terminal, nothing if ``silent``."""
    if silent:
        return quiet
    from rich.console import Console

    console = console or Console(stderr=True)
    return _Terminal(console) if console.is_terminal else _Lines(console)


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
        shown = terminal_progress()
        return shown if isinstance(shown, _Terminal) else quiet
    if not all(callable(getattr(progress, name, None)) for name in ("stage", "say")):
        raise OptionError(
            f"{named('progress')} {progress!r}: use True, False, 'auto' or an object of your own"
        )
    return progress
