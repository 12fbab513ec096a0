"""The files that data is read from, without reading them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from obs_onnx.data.images.image_files import LABELS, PREPROCESSING, SUFFIXES

__all__ = ["files_of", "holds"]

_SUFFIXES = {".npz", ".npy", *SUFFIXES}
_NAMES = {PREPROCESSING, LABELS}


def files_of(source: Any) -> list[Path]:
    """Files and folders from which data is read, given as for :func:`obs_onnx.data.open_source.open_source`.

    Of ``module:function`` all files in which the module may lie. Nothing is opened or imported.
    """
    if isinstance(source, str | PathLike):
        return _named(str(source))
    if isinstance(source, np.memmap):
        return [] if source.filename is None else [Path(str(source.filename))]
    if isinstance(source, Mapping):
        return [path for array in source.values() if isinstance(array, np.memmap) for path in files_of(array)]
    return []


def _named(name: str) -> list[Path]:
    if name.startswith("random:"):
        return []
    if Path(name).exists() or ":" not in name:
        return [Path(name)]
    module, _, _ = name.rpartition(":")
    if module.endswith(".py"):
        return [Path(module)]
    parts = module.replace(".", "/")
    return [
        Path(folder or ".", end)
        for folder in ("", *sys.path)
        for end in (f"{parts}.py", f"{parts}/__init__.py")
    ]


def holds(folder: Path, path: Path) -> bool:
    """Whether ``path`` is, or would be once it is written, one of the files of a folder of data.

    A file elsewhere is so if it is a hard link to one of them.
    """
    if _is_data(path) and any(_is_same(folder, parent) for parent in Path(path).resolve().parents):
        return True
    if not path.exists() or path.stat().st_nlink < 2:
        return False
    return any(_is_data(one) and _is_same(one, path) for one in folder.rglob("*"))


def _is_data(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES or path.name in _NAMES


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
