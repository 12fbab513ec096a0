"""What pruning starts from: the model, the runtime, the calibration data, and where the result goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from obs_onnx.model_file import from_proto, load_model, serialize
from obs_onnx.passes.errors import ModelError, OptionError
from obs_onnx.passes.upcast import Upcast, uses_bfloat16
from obs_onnx.runtimes import Runtime

__all__ = [
    "Opened",
    "calibration_of",
    "destination_of",
    "keep_path",
    "new_folder",
    "open_model",
    "runnable",
]


@dataclass(frozen=True)
class Opened:
    """A model as it came in.

    Attributes:
        model: not changed.
        name: for people.
        path: its file, or None.
        runtime: where it will be calibrated.
    """

    model: ir.Model
    name: str
    path: Path | None
    runtime: Runtime


def open_model(
    model: str | os.PathLike[str] | ir.Model | onnx.ModelProto, custom_domains: Sequence[str]
) -> tuple[ir.Model, str, Path | None]:
    """The model, its name for people, and its file if there is one."""
    if isinstance(model, ir.Model):
        return model, model.graph.name or "model", None
    if isinstance(model, onnx.ModelProto):
        return from_proto(model, custom_domains=custom_domains), model.graph.name or "model", None
    return load_model(model, custom_domains=custom_domains), str(model), Path(model)


def runnable(runtime: Runtime, model: ir.Model) -> tuple[ir.Model, bool]:
    """The model, or a float32 copy (and True) where the runtime has no kernels for its bfloat16."""
    if not uses_bfloat16(model):
        return model, False
    try:
        runtime.session(serialize(model))
    except ModelError:
        return Upcast()(model.clone()).model, True
    return model, False


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
    raise OptionError(f"no calibration data: give --calib SRC{beside} (random:256 only to try things out)")
