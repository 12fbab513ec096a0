"""join() and split(): several files as one model, and that model as several files again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from obs_onnx.io.atomic_files import together
from obs_onnx.io.onnx_file import ModelLike, open_model, save_model
from obs_onnx.io.paths import check_new_folder, same_file
from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import ModelError, OptionError, boundary
from obs_onnx.passes.interface.joined import PARTS
from obs_onnx.passes.interface.joined import join as join_models
from obs_onnx.passes.interface.joined import split as split_model

__all__ = ["join", "split"]

Where = str | os.PathLike[str]


def join(models: Sequence[ModelLike], output: Where | None = None) -> ir.Model:
    """One model of several files, in which the channels of what they hand on are decided once.

    Args:
        models: an encoder, a decoder for the first tokens, one that goes on from its caches, or any others
            that take what one before gives, in the order in which they run. They are called as their files.
        output: file that the one model is written to.

    Raises:
        ModelError: two of one name, or files that do not belong together (see
            :func:`obs_onnx.passes.interface.joined.join`); nothing is written.
        OptionError: the file is one of those that are read, or cannot be written.
    """
    opened = [open_model(model, None) for model in models]
    if output is not None and any(path is not None and same_file(path, Path(output)) for *_, path in opened):
        raise OptionError(f"{os.fspath(output)} is one of the files to join: choose another output")
    names = [name if path is None else path.stem for _, name, path in opened]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ModelError(f"two of the models are called {twice}: give them other names")
    with boundary("the files cannot be joined"):
        joined = join_models({name: plain(model) for name, (model, *_) in zip(names, opened, strict=True)})
    if output is not None:
        save_model(joined, output)
    return joined


def split(model: ModelLike, output: Where | None = None) -> dict[str, ir.Model]:
    """The files that a model was joined of, with the sizes that are left of what they hand on.

    Args:
        model: as :func:`join` has made it, or what is left of it after pruning.
        output: a new or empty folder for the files, or none.

    Returns:
        Name of each file, without an ending, and the model.

    Raises:
        ModelError: the model was not joined, or lacks what a file has to give; nothing is written.
        OptionError: the folder cannot be written, or is not empty.
    """
    if output is not None:
        check_new_folder(output)
    opened, name, _ = open_model(model, None)
    if PARTS not in opened.metadata_props:
        raise ModelError(
            f"{name} was not joined of several files: give what join wrote, or a smaller form of it"
        )
    with boundary(f"{name} cannot be split"):
        found = split_model(opened)
    if output is not None:
        with together() as files:
            new = files.new(output)
            new.mkdir()
            for part, one in found.items():
                save_model(one, new / f"{part}.onnx")
    return found
