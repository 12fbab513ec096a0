"""New parameters: what stays of each, with the numbers of the smaller ONNX model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from obs_onnx.passes.errors import ModelError
from obs_onnx.torch.forms import array, factors, locate
from obs_onnx.torch.matching import Match

__all__ = ["PACKED", "Cut", "Name", "collect"]

Array = NDArray[np.float64]
Places = NDArray[np.int64]
Name = tuple[str, str]

PACKED = "in_proj_weight"  # of attention: queries, keys and values

_FLAT = 1e-6  # of the largest factor of a batch normalization: a channel that it switches off
_SAME = 1e-5


@dataclass(frozen=True)
class Cut:
    """What becomes of a parameter or buffer.

    Attributes:
        shape: of the dense one.
        kept: for each axis, what stays.
        values: in the shape of what stays.
        groups: of the convolution.
    """

    shape: tuple[int, ...]
    kept: tuple[Places, ...]
    values: Array
    groups: int = 1


@dataclass
class _Pieces:
    """Parts of one parameter, from one or several initializers."""

    shape: tuple[int, ...]
    places: list[Places] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)
    covered: list[Places] = field(default_factory=list)
    groups: int = 1

    def add(self, places: Places, values: Array, covered: Places) -> None:
        self.places.append(places)
        self.values.append(values)
        self.covered.append(covered)

    def thirds(self) -> list[_Pieces]:
        """Those of three matrices that lie one below the other."""
        size = int(np.prod(self.shape)) // 3
        parts = [_Pieces((self.shape[0] // 3, *self.shape[1:])) for _ in range(3)]
        for places, values, covered in zip(self.places, self.values, self.covered, strict=True):
            for number, part in enumerate(parts):
                here, there = places // size == number, covered // size == number
                if there.any():
                    part.add(places[here] % size, values[here], covered[there] % size)
        return parts

    def cut(self, name: str) -> Cut:
        """All of them together.

        Raises:
            ModelError: they do not make up a tensor, or do not agree.
        """
        places, values = np.concatenate(self.places), np.concatenate(self.values)
        size = int(np.prod(self.shape))
        left = np.setdiff1d(np.arange(size), np.concatenate(self.covered))
        if left.size:
            raise ModelError(
                f"{name} is only in part a weight of the ONNX model: keep it with protect={name!r}"
            )
        order, where = np.unique(places, return_inverse=True)
        flat = np.empty(len(order))
        flat[where] = values
        if np.abs(flat[where] - values).max(initial=0.0) > _SAME * np.abs(values).max(initial=0.0):
            raise ModelError(
                f"{name} is used several times, and each use was refitted by itself: "
                "prune with compensate=False"
            )
        index = np.unravel_index(order, self.shape)
        kept = tuple(np.unique(one) for one in index)
        if int(np.prod([len(one) for one in kept])) != len(order):
            raise ModelError(f"{name} does not keep the same everywhere: protect its layer")
        return Cut(self.shape, kept, flat.reshape([len(one) for one in kept]), self.groups)


def collect(module: nn.Module, matches: Sequence[Match]) -> dict[Name, Cut]:
    """``(path, name)`` -> what becomes of the parameters and buffers that the ONNX model holds.

    Weights in front of batch normalization are divided by what was folded into them, and what the layer adds
    goes into its bias. A channel that it switched off gets the factor 1.

    Raises:
        ModelError: no module of the same kind can hold what the smaller model holds.
    """
    gathered = _Gathered(dict(module.named_modules()))
    for found in matches:
        gathered.take(found)
    return gathered.cuts()


class _Gathered:
    """Pieces of parameters.

    Args:
        modules: by path.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        self._pieces: dict[Name, _Pieces] = {}
        self._whole: dict[Name, Cut] = {}

    def cuts(self) -> dict[Name, Cut]:
        """What becomes of them; a bias that would be new and adds nothing is left out."""
        found = dict[Name, Cut]()
        for (path, name), pieces in self._pieces.items():
            full = f"{path}.{name}".lstrip(".")
            try:
                found[path, name] = pieces.cut(full)
            except ModelError:
                if name != PACKED:
                    raise
                parts = zip("qkv", pieces.thirds(), strict=True)
                found |= {(path, f"{x}_proj_weight"): part.cut(full) for x, part in parts}
        return {
            (path, name): cut
            for (path, name), cut in {**found, **self._whole}.items()
            if getattr(self._modules[path], name) is not None or cut.values.any()
        }

    def _piece(self, path: str, name: str, shape: tuple[int, ...]) -> _Pieces:
        return self._pieces.setdefault((path, name), _Pieces(shape))

    def take(self, found: Match) -> None:
        """An initializer, and what its layer adds."""
        constant, form = found.constant, found.form
        one = self._modules[form.path]
        old: torch.Tensor = getattr(one, form.name)
        rows = locate(one, form.name, form.places) if old.ndim > 1 else form.places
        values = constant.small
        if form.norm is not None:
            values = values / _factors(self._modules[form.norm])[rows[constant.kept]]
        piece = self._piece(form.path, form.name, tuple(old.shape))
        piece.groups = constant.groups
        piece.add(form.places[constant.kept], values, form.places)
        bias = constant.bias
        if bias is None or not form.knows_bias:
            return
        outputs = np.zeros(int(bias.outputs.max()) + 1, np.int64)
        outputs[bias.outputs] = rows
        stay = outputs[np.unique(bias.outputs[constant.kept])]
        added = bias.values if len(bias.values) == len(stay) else np.zeros(len(stay))
        if form.norm is None:
            self._add(form.path, stay, added, outputs)
        else:
            self._normalize(form.path, form.norm, stay, added)

    def _add(self, path: str, stay: Places, added: Array, outputs: Places) -> None:
        """What a layer adds, as its bias."""
        one = self._modules[path]
        packed = isinstance(one, nn.MultiheadAttention)
        size = 3 * one.embed_dim if packed else len(outputs)
        self._piece(path, "in_proj_bias" if packed else "bias", (size,)).add(stay, added, outputs)

    def _normalize(self, path: str, norm: str, stay: Places, added: Array) -> None:
        """What a layer adds, as the bias of the batch normalization behind it."""
        one, behind = self._modules[path], self._modules[norm]
        s, var, mean = _factors(behind), *(array(behind.get_buffer(f"running_{x}")) for x in ("var", "mean"))
        offset = np.zeros(len(s))
        if one.bias is not None:
            offset = array(one.get_parameter("bias"))
            self._whole[path, "bias"] = Cut(offset.shape, (stay,), offset[stay])
        new = {
            "weight": (s * np.sqrt(var + float(behind.eps)))[stay],
            "bias": added - s[stay] * (offset - mean)[stay],
            "running_mean": mean[stay],
            "running_var": var[stay],
        }
        for name, values in new.items():
            self._whole[norm, name] = Cut(s.shape, (stay,), values)


def _factors(norm: nn.Module) -> Array:
    """What batch normalization will multiply each channel by; 1 where it switched one off."""
    s = factors(norm)
    return np.where(np.abs(s) > _FLAT * np.abs(s).max(initial=0.0), s, 1.0)
