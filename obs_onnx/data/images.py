"""Folders of images, decoded on demand and brought to what the model was trained on.

How is said by ``preprocess.json`` in the folder (or given as an argument)::

    {"resize": 256, "crop": 224, "interpolation": "bilinear", "scale": 0.00392156862745098,
     "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "layout": "NCHW", "order": "RGB"}

Every key is optional. ``resize`` is the shorter side, or [height, width]; ``crop`` (from the centre) a side
or [height, width]; then ``x = (pixel * scale - mean) / std``; ``order`` is RGB, BGR or L (grey). Defaults: no
resize, no crop, scale 1/255, mean 0, std 1, layout NCHW, RGB.

Labels are the numbers of the class folders in the order of their names, or come from ``labels.csv`` with
lines ``file,label``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import Array, TensorSpec, is_float
from obs_onnx.data.rows import natural
from obs_onnx.passes.errors import DataError, MissingRuntimeError

__all__ = ["LABELS", "PREPROCESSING", "SUFFIXES", "ImageRows", "Preprocess", "open_images"]

LABELS, PREPROCESSING = "labels.csv", "preprocess.json"
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_MODES = {"RGB": "RGB", "BGR": "RGB", "L": "L"}


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes a sample; see the module's docstring.

    Raises:
        DataError: a value that makes no sense.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "NCHW"
    order: str = "RGB"

    def __post_init__(self) -> None:
        channels = 1 if self.order == "L" else 3
        for name, options in (("interpolation", _FILTERS), ("order", _MODES), ("layout", ("NCHW", "NHWC"))):
            if getattr(self, name) not in options:
                raise DataError(
                    f"preprocessing: {name} {getattr(self, name)!r} is none of {', '.join(options)}"
                )
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, channels):
                raise DataError(f"preprocessing: {name} needs {channels} values, one per channel")
        if 0 in self.std:
            raise DataError("preprocessing: std holds a zero")
        for name in ("resize", "crop"):
            side = getattr(self, name)
            sides = () if side is None else (side,) if isinstance(side, int) else side
            if any(not isinstance(value, int) or value < 1 for value in sides) or len(sides) > 2:
                raise DataError(
                    f"preprocessing: {name} is a number of pixels or [height, width], not {side!r}"
                )

    @staticmethod
    def from_json(given: Mapping[str, Any], where: str) -> Preprocess:
        """From a parsed JSON object.

        Raises:
            DataError: unknown keys or values that make no sense.
        """
        known = [f.name for f in fields(Preprocess)]
        for key in given:
            if key not in known:
                raise DataError(f"{where}: unknown key {key!r} (there are {', '.join(known)})")
        values: dict[str, Any] = dict(given)
        for key in {"mean", "std", "scale"} & set(values):
            try:
                numbers = tuple(float(value) for value in np.atleast_1d(values[key]))
            except (TypeError, ValueError) as error:
                raise DataError(f"{where}: {key} holds something that is no number") from error
            values[key] = numbers[0] if key == "scale" else numbers
        for key in ("resize", "crop"):
            if isinstance(values.get(key), (list, tuple)):
                values[key] = tuple(values[key])
        return Preprocess(**values)

    def __call__(self, image: Any) -> NDArray[np.float32]:
        """float32 sample of shape (C, H, W) or (H, W, C) of a pillow image."""
        image = _crop(self._resized(image.convert(_MODES[self.order])), self.crop)
        x_HWC: NDArray[np.float32] = np.asarray(image, np.float32)
        x_HWC = x_HWC[:, :, None] if x_HWC.ndim == 2 else x_HWC
        x_HWC = x_HWC[:, :, ::-1] if self.order == "BGR" else x_HWC
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        x_HWC = (x_HWC * np.float32(self.scale) - mean) / std
        return x_HWC.transpose(2, 0, 1) if self.layout == "NCHW" else x_HWC

    def _resized(self, image: Any) -> Any:
        if self.resize is None:
            return image
        if isinstance(self.resize, tuple):
            height, width = self.resize
        else:
            factor = self.resize / min(image.size)
            width, height = (max(1, round(side * factor)) for side in image.size)
        return image.resize((width, height), _FILTERS[self.interpolation])


def _crop(image: Any, size: int | tuple[int, int] | None) -> Any:
    if size is None:
        return image
    height, width = (size, size) if isinstance(size, int) else size
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))


@dataclass(frozen=True, eq=False)
class ImageRows:
    """Samples decoded from image files.

    Attributes:
        files: one per sample.
        preprocess: applied to each.
        dtype: of the model's input.
        row_shape: of one sample, read off the first file.
        labels: class numbers, or None.
    """

    files: Sequence[Path]
    preprocess: Preprocess
    dtype: np.dtype[Any]
    labels: NDArray[np.int64] | None = None
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
                sample = self.preprocess(image)
        except OSError as error:
            raise DataError(f"{path}: cannot read the image: {error}") from error
        if shape is not None and sample.shape != shape:
            raise DataError(
                f"{path}: gives shape {sample.shape}, {self.files[0].name} gave {shape}: "
                "say resize or crop in preprocess.json"
            )
        return sample if is_float(self.dtype) else np.rint(sample).astype(self.dtype)


def open_images(
    folder: Path, spec: TensorSpec, preprocess: Mapping[str, Any] | str | PathLike[str] | None = None
) -> ImageRows:
    """The images of a folder (and its class folders) as samples for input ``spec``.

    Args:
        folder: images, ``preprocess.json`` and maybe ``labels.csv``; or one sub-folder per class.
        spec: the model's input.
        preprocess: as a dict or the path of a JSON file, instead of the one in the folder.

    Raises:
        DataError: no or broken images, no preprocessing, labels that do not cover the images.
        MissingRuntimeError: pillow is not installed.
    """
    images = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not images:
        raise DataError(f"{folder}: holds no npz, npy or image files")
    images.sort(key=lambda path: (path.parent.relative_to(folder).parts, natural(path)))
    how = Preprocess.from_json(*_preprocess(folder, preprocess))
    return ImageRows(images, how, spec.dtype, _labels(folder, images))


def _preprocess(
    folder: Path, given: Mapping[str, Any] | str | PathLike[str] | None
) -> tuple[Mapping[str, Any], str]:
    """The JSON object and where it is from."""
    if isinstance(given, Mapping):
        return given, "preprocessing"
    path = folder / PREPROCESSING if given is None else Path(given)
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: missing; say how images become arrays, for example "
            '{"resize": 256, "crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}'
        ) from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
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
