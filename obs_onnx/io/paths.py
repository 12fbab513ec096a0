"""Names of files: where results go by default, what lies beside them, and which names mean the same file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from obs_onnx.io.streams import is_stream
from obs_onnx.passes.errors import OptionError, named

__all__ = [
    "calibration_beside",
    "calibration_of",
    "check_new_folder",
    "config_destination",
    "configs_beside",
    "finetuned_path",
    "frontier_folder",
    "keep_path",
    "pruned_path",
    "quantized_path",
    "same_file",
    "side_path",
    "tokenizer_beside",
    "vocabulary_path",
]

_CONFIGS = ("genai_config.json", "config.json")  # of onnxruntime-genai, and of Hugging Face transformers


def pruned_path(path: Path) -> Path:
    """Where a smaller model goes by default, beside the one at ``path``."""
    return path.with_name(f"{path.stem}.pruned.onnx")


def finetuned_path(path: Path) -> Path:
    """Where a trained model goes by default, beside the one at ``path``."""
    return path.with_name(f"{path.stem}.finetuned.onnx")


def check_new_folder(output: str | os.PathLike[str]) -> None:
    """Fail now rather than after hours if a folder cannot be made.

    Raises:
        OptionError: something is there already, or the folder around is missing or read-only.
    """
    try:
        target = Path(os.path.realpath(output))
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise OptionError(f"{output} exists: choose another folder, or remove it")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OptionError(f"cannot write {output}: {reason}") from error
    if not target.parent.is_dir():
        raise OptionError(f"the folder of {output} does not exist: create it or choose another output")
    if not os.access(target.parent, os.W_OK):
        raise OptionError(f"cannot write {output}: permission denied")


def frontier_folder(path: Path) -> Path:
    """Where the frontier of the model at ``path`` goes by default."""
    return path.with_name(f"{path.stem}.pareto")


def side_path(path: Path) -> Path:
    """Where the weights of a written model lie if not in its file: beside that, not beside a link to it."""
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}.data")


def configs_beside(model: Path) -> list[Path]:
    """Configurations of a language model that lie beside its file."""
    return [path for name in _CONFIGS if (path := model.with_name(name)).is_file()]


def config_destination(config: Path, destination: Path, alone: bool = True) -> Path:
    """Where the new form of ``config`` goes: beside the result, never over the one that was read.

    Where the result does not stand ``alone`` in its folder, the name begins with its own.
    """
    beside = destination.parent / config.name
    if alone and not same_file(beside, config):
        return beside
    return destination.with_suffix(f".{config.name}")


def keep_path(destination: Path) -> Path:
    """Where the removed channels of a result are written."""
    return destination.with_suffix(".keep.json")


def tokenizer_beside(given: str | None, *neighbours: object) -> Path | None:
    """The tokenizer.json that is given, or that lies beside a file, or in a folder."""
    if given is not None:
        path = Path(given)
        return path / "tokenizer.json" if path.is_dir() else path
    for one in neighbours:
        if isinstance(one, str | Path):
            folder = Path(one) if Path(one).is_dir() else Path(one).parent
            if (path := folder / "tokenizer.json").is_file():
                return path
    return None


def vocabulary_path(destination: Path) -> Path:
    """Where new ids of the tokens that stay are written."""
    return destination.with_suffix(".vocabulary.json")


def quantized_path(destination: Path, kind: str) -> Path:
    """Where a model quantized to a kind (``int8`` ...) is written, beside the pruned one."""
    return destination.with_suffix(f".{kind}.onnx")


def calibration_beside(path: Path | None) -> Path | None:
    """Calibration data that lies beside a model."""
    neighbour = None if path is None else path.with_name(f"{path.stem}.calib.npz")
    return neighbour if neighbour is not None and neighbour.exists() else None


def calibration_of(calib: Any, path: Path | None) -> Any:
    """The calibration data given, or what lies beside the model.

    Raises:
        OptionError: neither is there.
    """
    if calib is not None:
        return calib
    if (neighbour := calibration_beside(path)) is not None:
        return neighbour
    beside = "" if path is None else f" or put {path.stem}.calib.npz beside the model"
    raise OptionError(
        f"no calibration data: give {named('calib')}{beside} (random:256 only to try things out)"
    )


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two names are those of one file, through links of any kind; streams are no files."""
    if is_stream(one) or is_stream(other):
        return False
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
