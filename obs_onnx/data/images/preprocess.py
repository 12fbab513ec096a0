"""How a picture becomes a sample of a model's input: what is said of it, and what the input itself tells.

Said by a name (:data:`PRESETS`), or as JSON, where every key is optional::

    {"preset": "imagenet", "resize": 256, "crop": 224, "interpolation": "bilinear",
     "scale": 0.00392156862745098, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
     "layout": "NCHW", "order": "RGB"}

``resize`` is the shorter side, or [height, width]; ``crop`` (from the centre) a side or [height, width]; then
``x = (pixel * scale - mean) / std``; ``order`` is RGB, BGR, RGBA or L (grey).

The input tells the rest: where its channels are and how many (1: grey, 3: RGB, 4: RGBA), and its height and
width, to which pictures are resized. An input of whole numbers takes pixels as they are, scale 1; else
it is 1/255.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from obs_onnx.data.feeds import TensorSpec, format_shape, is_float
from obs_onnx.passes.errors import DataError

__all__ = ["PRESETS", "Preprocess", "layout_of"]

Layout = Literal["CHW", "HWC", "HW"]

_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
_CHANNELS = {"RGB": 3, "BGR": 3, "RGBA": 4, "L": 1}
_MODES = {"RGB": "RGB", "BGR": "RGB", "RGBA": "RGBA", "L": "L"}
_LAYOUTS: Mapping[str, Layout] = {"NCHW": "CHW", "NHWC": "HWC"}
_WHOLE_SHARE = 0.875  # of the shorter side that the centre of an ImageNet picture has

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "0..1": {},
    "-1..1": {"mean": (0.5,), "std": (0.5,)},
    "0..255": {"scale": 1.0},
}
"""Names of common preprocessing; ``imagenet`` takes the centre of a picture, the others all of it."""

_GREY = {"mean": (0.449,), "std": (0.226,)}  # imagenet's, for one channel


def layout_of(
    spec: TensorSpec, layout: Layout | None = None, channels: int | None = None
) -> tuple[Layout, tuple[int | None, int | None], int | None]:
    """(where the channels are, (height, width), channels) of an input of images; None where it is free.

    Args:
        spec: the input.
        layout, channels: as they were said, if they were.

    Raises:
        DataError: the input takes no images.
    """
    shape = spec.shape if spec.shape is not None else ("N", None, None, None)
    sizes = [size if isinstance(size, int) else None for size in shape]
    if len(sizes) not in (3, 4):
        raise DataError(
            f"input {spec.name!r} of shape {format_shape(shape)} takes no images: give arrays (an npz file)"
        )
    first, *middle, last = sizes[-3:]
    counts = (3, 1, 4) if len(sizes) == 4 else (3,)
    if layout is None:
        for count in counts if channels is None else (channels,):
            if count in (first, last) and layout is None:
                layout = "CHW" if first == count else "HWC"
    if layout is None:
        layout = "HW" if len(sizes) == 3 else "CHW"
    if layout == "HW":
        return layout, (sizes[1], sizes[2]), 1
    return (layout, (middle[0], last), first) if layout == "CHW" else (layout, (first, middle[0]), last)


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes a sample; see the module.

    Raises:
        DataError: a value that makes no sense.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: Layout = "CHW"
    order: str = "RGB"

    def __post_init__(self) -> None:
        channels = _CHANNELS[self.order]
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, channels):
                raise DataError(f"preprocessing: {name} needs {channels} values, one per channel")
        if not np.isfinite((*self.mean, *self.std, self.scale)).all():
            raise DataError("preprocessing: mean, std and scale are finite numbers")
        if 0 in self.std:
            raise DataError("preprocessing: std holds a zero")
        for name in ("resize", "crop"):
            side = getattr(self, name)
            sides = () if side is None else side if isinstance(side, tuple) else (side,)
            if any(type(value) is not int or value < 1 for value in sides) or (
                isinstance(side, tuple) and len(side) != 2
            ):
                raise DataError(
                    f"preprocessing: {name} is a number of pixels or [height, width], not {side!r}"
                )

    @staticmethod
    def of(given: Mapping[str, Any], spec: TensorSpec, where: str) -> Preprocess:
        """What was said, completed by what the input tells.

        Args:
            given: a parsed JSON object.
            spec: the model's input.
            where: ``given`` is from, for messages.

        Raises:
            DataError: unknown keys, values that make no sense, or that do not go with the input.
        """
        values = _checked(given, where)
        preset = values.pop("preset", None)
        said = _LAYOUTS[values["layout"]] if "layout" in values else None
        values["layout"], size, channels = layout_of(spec, said, _CHANNELS.get(values.get("order", "")))
        values.setdefault("order", {1: "L", 4: "RGBA"}.get(channels or 3, "RGB"))
        if not is_float(spec.dtype) and preset is None:
            values.setdefault("scale", 1.0)
        for key, value in (PRESETS[preset] if preset else {}).items():
            values.setdefault(key, _per_channel(key, value, values["order"]))
        _complete_size(values, size, centre=preset == "imagenet")
        found = Preprocess(**values)
        found._check_type(spec)
        return found

    def _check_type(self, spec: TensorSpec) -> None:
        """Refuse pixels that an input of whole numbers cannot hold, or can no longer tell apart.

        Raises:
            DataError: so it is.
        """
        if is_float(spec.dtype):
            return
        ends = (np.outer([0.0, 255.0], self.scale) - self.mean) / np.array(self.std)
        low, high, span = ends.min(), ends.max(), np.abs(ends[1] - ends[0]).min()
        info = np.iinfo(spec.dtype) if spec.dtype.kind in "iu" else None
        if info is None or span < 16 or low < info.min or high > info.max:
            raise DataError(
                f"preprocessing: input {spec.name!r} takes whole numbers ({spec.dtype}), and pixels would "
                f"become {low:.4g} to {high:.4g}: leave out scale, mean and std, or use scale 1"
                + (" and mean 128" if spec.dtype == np.int8 else "")
            )

    def __call__(self, image: Any) -> NDArray[np.float32]:
        """float32 sample of shape (C, H, W), (H, W, C) or (H, W) of a pillow image.

        Raises:
            DataError: pixels that are no whole numbers.
        """
        image = _crop(self._resized(_eight_bits(image).convert(_MODES[self.order])), self.crop)
        x_HWC: NDArray[np.float32] = np.asarray(image, np.float32)
        x_HWC = x_HWC[:, :, None] if x_HWC.ndim == 2 else x_HWC
        x_HWC = x_HWC[:, :, ::-1] if self.order == "BGR" else x_HWC
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        x_HWC = (x_HWC * np.float32(self.scale) - mean) / std
        if self.layout == "HW":
            return x_HWC[:, :, 0]
        return x_HWC.transpose(2, 0, 1) if self.layout == "CHW" else x_HWC

    def pixels(self, size: tuple[int, int]) -> int:
        """Most pixels that a picture of (width, height) has on its way."""
        crop = self.crop if isinstance(self.crop, tuple) else (self.crop or 0, self.crop or 0)
        return max(math.prod(size), math.prod(self._size(size)), math.prod(crop))

    def _size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) after resizing."""
        if self.resize is None:
            return size
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        factor = self.resize / min(size)
        return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

    def _resized(self, image: Any) -> Any:
        if self.resize is None:
            return image
        return image.resize(self._size(image.size), _FILTERS[self.interpolation])


def _checked(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values of known keys, as the fields of :class:`Preprocess` have them."""
    known = ["preset", *(f.name for f in fields(Preprocess))]
    for key in given:
        if key not in known:
            raise DataError(f"{where}: unknown key {key!r} (there are {', '.join(known)})")
    values: dict[str, Any] = dict(given)
    words: dict[str, Collection[str]] = {
        "interpolation": _FILTERS,
        "order": _MODES,
        "layout": _LAYOUTS,
        "preset": PRESETS,
    }
    for name, options in words.items():
        if name in values and (not isinstance(values[name], str) or values[name] not in options):
            raise DataError(f"preprocessing: {name} {values[name]!r} is none of {', '.join(options)}")
    for key in {"mean", "std", "scale"} & set(values):
        try:
            numbers = tuple(float(value) for value in np.atleast_1d(values[key]))
        except (TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{where}: {key} holds something that is no number") from error
        if key == "scale" and len(numbers) != 1:
            raise DataError(f"{where}: scale is one number")
        values[key] = numbers[0] if key == "scale" else numbers
    for key in ("resize", "crop"):
        if isinstance(values.get(key), list | tuple):
            values[key] = tuple(values[key])
    return values


def _per_channel(key: str, value: Any, order: str) -> Any:
    """A preset's value for the channels there are."""
    if not isinstance(value, tuple) or len(value) == 1:
        return value
    neutral = 0.0 if key == "mean" else 1.0
    return {"L": _GREY[key], "BGR": value[::-1], "RGBA": (*value, neutral)}.get(order, value)


def _complete_size(values: dict[str, Any], size: tuple[int | None, int | None], *, centre: bool) -> None:
    """Bring pictures to the height and width of the input, where nothing else was said."""
    height, width = size
    if height is None or width is None or values.get("crop") is not None:
        return
    resize = values.get("resize")
    if resize is None and centre and height == width:
        values.update(resize=round(height / _WHOLE_SHARE), crop=height)
    elif resize is None:
        values["resize"] = (height, width)
    elif isinstance(resize, int):
        values["crop"] = (height, width)


def _eight_bits(image: Any) -> Any:
    """A picture of 16 bits per pixel in 8, which pillow would cut off at 255."""
    if image.mode == "F":
        raise DataError("pixels are no whole numbers: give arrays (an npz file) instead")
    if not image.mode.startswith("I"):
        return image
    return image.point(lambda pixel: pixel / 257).convert("L")


def _crop(image: Any, size: int | tuple[int, int] | None) -> Any:
    if size is None:
        return image
    height, width = (size, size) if isinstance(size, int) else size
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
