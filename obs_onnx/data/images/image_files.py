"""Image files, decoded on demand, with labels.

Labels are the numbers of the class folders in the order of their names, or come from ``labels.csv`` with
lines ``file,label``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array, TensorSpec, is_float
from obs_onnx.data.images.preprocess import PRESETS, Preprocess
from obs_onnx.data.limits import check_room
from obs_onnx.data.rows import natural
from obs_onnx.passes.errors import DataError, MissingRuntimeError, boundary, named

__all__ = ["LABELS", "PREPROCESSING", "SUFFIXES", "ImageRows", "open_images"]

LABELS, PREPROCESSING = "labels.csv", "preprocess.json"
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_PIXEL_BYTES = 20  # four channels, as they come and as numbers


@dataclass(frozen=True, eq=False)
class ImageRows:
    """Samples decoded from image files.

    Attributes:
        files: one per sample.
        preprocess: applied to each.
        dtype: of the model's input.
        row_shape: of one sample, read off the first file.
        labels: class numbers, or None.
        memory: bytes that one sample may take; by default half of what is free.
    """

    files: Sequence[Path]
    preprocess: Preprocess
    dtype: np.dtype[Any]
    labels: NDArray[np.int64] | None = None
    memory: int | None = None
    row_shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "row_shape", self._decode(self.files[0]).shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of images, then the shape of one."""
        return (len(self.files), *self.row_shape)

    def take(self, indices: NDArray[np.int64]) -> Array:
        """The samples at ``indices``."""
        return np.stack([self._decode(self.files[index], self.row_shape) for index in indices.tolist()])

    def _decode(self, path: Path, shape: tuple[int, ...] | None = None) -> Array:
        pillow = _import_pillow()
        try:
            with pillow.open(path) as image:
                check_room(str(path), _PIXEL_BYTES * self.preprocess.pixels(image.size), self.memory)
                sample = self.preprocess(image)
        except DataError as error:
            raise DataError(f"{path}: {str(error).removeprefix(f'{path} ')}") from error
        except Exception as error:  # each format raises its own
            raise DataError(f"{path}: cannot read the image: {error}") from error
        if shape is not None and sample.shape != shape:
            raise DataError(
                f"{path}: gives shape {sample.shape}, {self.files[0].name} gave {shape}: "
                f"say resize or crop in {PREPROCESSING}, the model takes any size"
            )
        return sample if is_float(self.dtype) else np.rint(sample).astype(self.dtype)


def open_images(
    folder: Path,
    spec: TensorSpec,
    preprocess: object = None,
    memory: int | None = None,
) -> ImageRows:
    """The images of a folder (and its class folders) as samples for input ``spec``.

    Args:
        folder: images, ``preprocess.json`` and maybe ``labels.csv``; or one sub-folder per class.
        spec: the model's input.
        preprocess: a name in :data:`obs_onnx.data.images.preprocess.PRESETS`, a dict or the path of a JSON
            file, instead of the one in the folder. What takes whole numbers needs none.
        memory: bytes that one sample may take; by default half of what is free.

    Raises:
        DataError: no or broken images, no preprocessing, labels that do not cover the images.
        MissingRuntimeError: pillow is not installed.
    """
    images = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not images:
        raise DataError(f"{folder}: holds no npz, npy or image files")
    images.sort(key=lambda path: (path.parent.relative_to(folder).parts, natural(path)))
    given, where = _preprocess(folder, spec, preprocess)
    how = Preprocess.of(given, spec, where)
    return ImageRows(images, how, spec.dtype, _labels(folder, images), memory)


def _preprocess(folder: Path, spec: TensorSpec, given: object) -> tuple[Mapping[str, Any], str]:
    """The JSON object and where it is from."""
    if isinstance(given, Mapping):
        return given, "preprocessing"
    if isinstance(given, str) and given in PRESETS:
        return {"preset": given}, "preprocessing"
    if given is not None and not isinstance(given, str | PathLike):
        raise DataError(f"preprocessing is a name, a dict or a file, not a {type(given).__name__}")
    path = folder / PREPROCESSING if given is None else Path(given)
    if not path.exists():
        if given is None and not is_float(spec.dtype):
            return {}, "preprocessing"
        names = ", ".join(PRESETS)
        raise DataError(
            f"{path}: missing; say how pixels become numbers as in training: {named('preprocess')} with "
            f'one of {names}, or a file like {{"preset": "imagenet", "resize": 256}} (docs/data.md)'
        )
    with boundary(f"{path}: cannot be read", DataError):
        text = path.read_text(encoding="utf-8")
    with boundary(f"{path}: not valid JSON", DataError):
        parsed = json.loads(text)
    if not isinstance(parsed, dict):
        raise DataError(f"{path}: must hold a JSON object")
    return parsed, str(path)


def _labels(folder: Path, images: Sequence[Path]) -> NDArray[np.int64] | None:
    table = folder / LABELS
    if table.is_file():
        return _csv_labels(table, [path.relative_to(folder).as_posix() for path in images])
    parents = [path.parent for path in images]
    if folder in parents:
        return None
    classes = sorted({parent.relative_to(folder).parts[0] for parent in parents})
    numbers = [classes.index(parent.relative_to(folder).parts[0]) for parent in parents]
    return np.array(numbers, np.int64)


def _csv_labels(table: Path, names: Sequence[str]) -> NDArray[np.int64]:
    labels: dict[str, int] = {}
    with table.open(newline="", encoding="utf-8") as lines:
        for number, row in enumerate(csv.reader(lines), start=1):
            if len(row) == 2 and row[1].strip().isdecimal():
                labels[row[0].strip()] = int(row[1])
            elif row and number > 1:
                raise DataError(f"{table}: line {number} is not 'file,label' with a class number from 0")
    for name in names:
        if name not in labels:
            raise DataError(f"{table}: no label for {name}")
    return np.array([labels[name] for name in names], np.int64)


def _import_pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingRuntimeError("images need pillow: install obs-onnx[images]") from error
    return Image
