"""What pruning starts from: the model, the runtime, the calibration data, and where the result goes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from obs_onnx.passes.errors import OptionError, named

__all__ = ["calibration_of", "destination_of", "int8_path", "keep_path", "new_folder"]


def destination_of(output: str | os.PathLike[str] | None, path: Path | None) -> Path | None:
    """Where the result goes; checked before anything costly starts."""
    if output is None:
        return None if path is None else path.with_name(f"{path.stem}.pruned.onnx")
    destination = Path(output)
    if not destination.resolve().parent.is_dir():
        raise OptionError(f"the folder of {destination} does not exist: create it or choose another output")
    if destination.is_dir():
        raise OptionError(f"{destination} is a folder: give the name of the file to write")
    if path is not None and destination.resolve() == path.resolve():
        raise OptionError(f"{destination} is the model itself: choose another output")
    return destination


def new_folder(output: str | os.PathLike[str]) -> Path:
    """A folder that can be made; checked before anything costly starts.

    Raises:
        OptionError: something is there already, or the folder around is missing or read-only.
    """
    target = Path(os.path.realpath(output))
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OptionError(f"{output} exists: choose another folder, or remove it")
    if not target.parent.is_dir():
        raise OptionError(f"the folder of {output} does not exist: create it or choose another output")
    if not os.access(target.parent, os.W_OK):
        raise OptionError(f"cannot write {output}: permission denied")
    return target


def keep_path(destination: Path) -> Path:
    """Where the removed channels of a result are written."""
    return destination.with_suffix(".keep.json")


def calibration_of(calib: Any, path: Path | None) -> Any:
    """The calibration data given, or what lies beside the model.

    Raises:
        OptionError: neither is there.
    """
    if calib is not None:
        return calib
    neighbour = None if path is None else path.with_name(f"{path.stem}.calib.npz")
    if neighbour is not None and neighbour.exists():
        return neighbour
    beside = "" if neighbour is None else f" or put {neighbour.name} beside the model"
    raise OptionError(
        f"no calibration data: give {named('calib')}{beside} (random:256 only to try things out)"
    )


def int8_path(destination: Path) -> Path:
    """Where the quantized model is written, beside the pruned one."""
    return destination.with_suffix(".int8.onnx")
