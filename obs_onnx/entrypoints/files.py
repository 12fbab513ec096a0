"""What a call reads and what it writes: nothing that is read is written over, and nothing is written twice.

Both lists come from the options: from the form of each field, and from what is written beside a result or
by default (:meth:`obs_onnx.option.Options.results`).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from obs_onnx import data, io
from obs_onnx.io.atomic_files import check_writable
from obs_onnx.io.paths import calibration_beside, check_new_folder, same_file, side_path
from obs_onnx.io.streams import is_stream
from obs_onnx.option import Options, options_of
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.work.options import WorkOptions
from obs_onnx.work.place import check_place

__all__ = ["check_files", "files_read", "files_written"]

_MODEL = "model"  # what the model itself is called among options
_READ = ("model", "data", "libraries", "runtime")
_FOLDERS = ("new folder", "work folder")
_WRITTEN = ("file", "new model", *_FOLDERS)


@dataclass(frozen=True)
class Written:
    """A file or a folder that is written, for an option; a folder may be one to go on from."""

    option: str
    path: Path
    folder: bool = False
    kept: bool = False


@dataclass(frozen=True)
class Read:
    """What is read for an option, which is of a form."""

    option: str
    form: str
    value: Any

    @cached_property
    def files(self) -> Sequence[Path]:
        """Files, and folders of data."""
        if self.form == "data":
            return data.files_of(self.value)
        if self.form == "model":
            return io.files_of(self.value)
        words = self.value if self.form == "libraries" else _words(self.value)
        return [Path(word) for word in words if os.path.exists(word)]

    def has(self, path: Path) -> bool:
        """Whether ``path`` is one of them, or one of the data in a folder."""
        if self.form == "model" and not path.exists():
            return False  # saves the look into the model
        folders = [file for file in self.files if self.form == "data" and file.is_dir()]
        return any(same_file(file, path) for file in self.files) or any(
            data.holds(one, path) for one in folders
        )


def _words(spec: str) -> Sequence[str]:
    try:
        return shlex.split(spec.partition(":")[2])
    except ValueError:
        return ()


def files_read(model: object, options: Options) -> Iterator[Read]:
    """Everything that is read of a model, or of several, with ``options``."""
    for one in model if isinstance(model, list | tuple) else (model,):
        yield Read(_MODEL, "model", one)
    for option in options_of(type(options)):
        value = getattr(options, option.name)
        if option.name == "calib" and value is None:
            value = calibration_beside(_path(model))
        if option.form in _READ and value is not None:
            yield Read(option.name, option.form, value)


def files_written(model: object, options: Options) -> Iterator[Written]:
    """Everything that may be written for a model with ``options``."""
    forms = {option.name: option.form for option in options_of(type(options)) if option.form in _WRITTEN}
    results = options.results(_path(model))
    for name, form in forms.items():
        value = getattr(options, name)
        paths = list(results.get(name, () if value is None else [Path(value)]))
        if form == "new model" and name not in results:
            paths += [side_path(path) for path in paths if not is_stream(path)]
        for path in paths:
            yield Written(name, path, form in _FOLDERS, form == "work folder")


def check_files(model: object, options: Options, **further: str | os.PathLike[str] | None) -> None:
    """Fail before anything costly starts if a file would be lost, or could not be written.

    Args:
        model: a file, a model in memory, or a list of such.
        options: of the call.
        further: files that the caller writes himself, by the names of their options.

    Raises:
        OptionError: something that is read would be written over, under whatever name; two results would be
            the same file; or a file cannot be written.
    """
    for option in options_of(type(options)):
        value = getattr(options, option.name)
        if option.form in ("file", "new model") and value is not None:
            check_writable(value)
    if isinstance(options, WorkOptions):
        check_place(options.work, options.resume)
    written = [*files_written(model, options)]
    written += [Written(name, Path(path)) for name, path in further.items() if path is not None]
    for number, one in enumerate(written):
        if not one.kept:
            (check_new_folder if one.folder else check_writable)(one.path)
        _check_apart(one, written[:number])
    read = list(files_read(model, options))
    for one in written:
        for source in read:
            if not one.folder and source.has(one.path):
                raise OptionError(
                    f"{one.path} is {_role(source, one.path)}: choose another {named(one.option)}"
                )


def _role(source: Read, path: Path) -> str:
    if source.option != _MODEL:
        return f"read for {named(source.option)}"
    itself = _path(source.value)
    return "the model itself" if itself and same_file(itself, path) else "read with the model"


def _check_apart(one: Written, others: Sequence[Written]) -> None:
    for other in others:
        if same_file(one.path, other.path):
            raise OptionError(f"{one.path} is given twice: every file needs a name of its own")
        inner, outer = (other, one) if one.folder else (one, other)
        if outer.folder and Path(os.path.realpath(outer.path)) in Path(os.path.realpath(inner.path)).parents:
            raise OptionError(f"{inner.path} lies in {outer.path}, which is written: choose another place")


def _path(model: object) -> Path | None:
    """The file of a model that is one."""
    return Path(model) if isinstance(model, str | os.PathLike) and os.path.isfile(model) else None
