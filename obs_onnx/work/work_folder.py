"""A folder of finished pieces: each a small archive without pickle that appears whole or not at all.

The name of a piece is a digest of all that it depends on, so nothing is ever read back for another question
than the one that it answers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from obs_onnx.cluster.executor import IN_TURN, Executor
from obs_onnx.io.atomic_files import together
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.work.digest import digest_of
from obs_onnx.work.layout import Arrays, built, flat
from obs_onnx.work.place import ABOUT, PIECES, README, check_place

__all__ = ["NOWHERE", "About", "Work", "open_work"]

T = TypeVar("T")

About = Mapping[str, object]
"""What a run is about, by aspect, in the types of JSON; a mapping is compared entry by entry."""

_TEXT = f"""\
This folder holds finished pieces of a run of obs-onnx, so that the run can go on if it is stopped.

{ABOUT} says which run: digests of its model and of its data, its options, and versions of programs.
{PIECES}/ has a file for each piece: damage that was measured, layers that were solved, scores, training.

To go on, repeat the command with --resume added (in Python: resume=True).
Nothing else needs this folder. Delete it when the run is done, or at any time that no run uses it.
"""


@dataclass(frozen=True)
class Work:
    """Where the pieces of a stage of a run are kept.

    Attributes:
        folder: of pieces; None to keep nothing.
        about: digest of all that they depend on.
        name: of the stage, for people.
        executor: does the tasks that :meth:`share` is given.
    """

    folder: Path | None = None
    about: str = ""
    name: str = "run"
    executor: Executor = IN_TURN

    def stage(self, name: str, *parts: object) -> Work:
        """Where the pieces of a stage are kept that depends on ``parts``, see :func:`~.digest.digest_of`."""
        if self.folder is None:
            return self
        return replace(self, about=digest_of(self.about, name, *parts), name=name)

    def by(self, executor: Executor) -> Work:
        """The same, where ``executor`` does what is shared."""
        return replace(self, executor=executor)

    def known(self, kind: type[T], names: Collection[str]) -> dict[str, T]:
        """What finished tasks gave, by their names; one that is damaged is not among them.

        Args:
            kind: of what they gave: a dataclass, an array or a number.
            names: of tasks.
        """
        if self.folder is None:
            return {}
        read = {name: self._read(kind, self.place(name)) for name in names}
        return {name: value for name, value in read.items() if value is not None}

    def finish(
        self,
        kind: type[T],
        tasks: Mapping[str, Callable[[], T]],
        done: Callable[[], None] = lambda: None,
    ) -> dict[str, T]:
        """What tasks give, each computed here unless it is known, and kept at once.

        Args:
            kind: of what they give.
            tasks: by name; none depends on another one of them.
            done: called after each.

        Raises:
            OptionError: a piece cannot be written.
        """
        return self._finish(IN_TURN, kind, dict(tasks), done)

    def share(
        self, kind: type[T], tasks: dict[str, Callable[[], T]], done: Callable[[], None] = lambda: None
    ) -> dict[str, T]:
        """The same by the executor, which may be other processes.

        Args:
            kind, done: see :meth:`finish`.
            tasks: by name; they hold plain data, and are taken out as they are begun.

        Raises:
            OptionError: a piece cannot be written, or other processes are out of reach.
        """
        return self._finish(self.executor, kind, tasks, done)

    def _finish(
        self, executor: Executor, kind: type[T], tasks: dict[str, Callable[[], T]], done: Callable[[], None]
    ) -> dict[str, T]:
        names = list(tasks)
        found = self.known(kind, names)
        for name in found:
            del tasks[name]
            done()
        ahead = list(tasks)
        for name, value in zip(ahead, executor.run(map(tasks.pop, ahead)), strict=True):
            found[name] = value
            if self.folder is not None:
                self._write(self.place(name), value)
            done()
        return {name: found[name] for name in names}

    def one(self, kind: type[T], name: str, task: Callable[[], T]) -> T:
        """What a single task gives; see :meth:`finish`."""
        return self.finish(kind, {name: task})[name]

    def place(self, name: str) -> Path:
        """The file of a piece."""
        assert self.folder is not None
        return self.folder / f"{re.sub('[^a-z0-9]+', '-', self.name)}.{digest_of(self.about, name)}.npz"

    def _write(self, path: Path, value: object) -> None:
        arrays: Arrays = {}
        tree = json.dumps(flat(value, arrays))
        about = np.array(json.dumps([path.name, digest_of(tree, arrays), tree]))
        entries: dict[str, Any] = {f"array {name}": array for name, array in arrays.items()}
        with together(noted=False) as files, files.new(path).open("wb") as file:
            np.savez(file, about=about, **entries)

    def _read(self, kind: type[T], path: Path) -> T | None:
        """What a piece holds; None where there is none, or it is not what was written for this name."""
        if not path.exists():
            return None
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                name, digest, tree = json.loads(str(file["about"]))
                arrays = {one.removeprefix("array "): file[one] for one in file.files if one != "about"}
            whole = name == path.name and digest == digest_of(tree, arrays)
            return built(kind, json.loads(tree), arrays) if whole else None
        except Exception:  # zip, json and numpy raise several kinds; the piece is computed again
            return None


NOWHERE = Work()
"""Keeps nothing."""


def open_work(folder: str | os.PathLike[str] | None, about: Callable[[], About], resume: bool) -> Work:
    """A folder for the pieces of a run, made if it is not there.

    Args:
        folder: where; None to keep nothing.
        about: says what the run is about.
        resume: go on from the pieces of an earlier run, which has to be the same.

    Raises:
        OptionError: pieces cannot be kept there, or are of another run.
    """
    if folder is None:
        return NOWHERE
    check_place(folder, resume)
    place = Path(os.path.realpath(folder))
    wanted: dict[str, object] = json.loads(json.dumps(about()))
    pieces = place / PIECES
    if pieces.is_dir() and any(pieces.iterdir()):
        _check_same(folder, _known_run(place / ABOUT), wanted)
    else:
        try:
            pieces.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"pieces cannot be kept in {folder}: {error.strerror or error}") from error
        with together(noted=False) as files:
            files.new(place / README).write_text(_TEXT, encoding="utf-8")
            files.new(place / ABOUT).write_text(f"{json.dumps(wanted, indent=2)}\n", encoding="utf-8")
    return Work(pieces, digest_of(wanted))


def _known_run(path: Path) -> dict[str, object]:
    """What the pieces of a folder are about; nothing where that cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _check_same(
    folder: str | os.PathLike[str], known: Mapping[str, object], wanted: Mapping[str, object]
) -> None:
    """Refuse pieces of another run.

    Raises:
        OptionError: they are; it says what differs.
    """
    other: list[str] = []
    for aspect in dict.fromkeys([*wanted, *known]):
        before, now = known.get(aspect), wanted.get(aspect)
        if before == now:
            continue
        other.append(aspect)
        if isinstance(before, dict) and isinstance(now, dict):
            names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
            other[-1] += f" ({', '.join(names)})"
    if other:
        raise OptionError(
            f"{folder} holds pieces of a run with another {' and another '.join(other)}: "
            f"repeat that run with {named('resume')}, choose another folder, or delete it"
        )
