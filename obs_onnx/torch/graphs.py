"""The dense and the smaller ONNX model side by side, in the form in which channels are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.keep_file import KeepFile, caches_of, masks
from obs_onnx.passes.graph.names import COPY_OF
from obs_onnx.passes.layers.find_layers import find_layers

__all__ = ["Bias", "Constant", "compare"]

Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Bias:
    """What a layer adds.

    Attributes:
        outputs: the output of the dense layer that each element of the weight gives, in order.
        values: of the smaller layer, one for each output that stays; zeros where it adds nothing.
        held: whether the dense or the smaller layer adds anything.
    """

    outputs: Places
    values: Array
    held: bool


@dataclass(frozen=True)
class Constant:
    """An initializer of both models.

    Attributes:
        name: as it is here; ``family`` is the name in the file, which copies have in common.
        dense: flat values of the dense model.
        kept: flat positions of what stays.
        shape: of what stays.
        small: its new values, flat.
        users: places of the nodes that use it, in the order of the graph.
        bias: of the layer whose weight it is.
        groups: of that layer in the smaller model.
        added_to: name of the weight of the layer that adds it.
        is_matrix: it has at least two axes, of more than one element each.
    """

    name: str
    family: str
    dense: Array
    kept: Places
    small: Array
    users: tuple[int, ...]
    bias: Bias | None = None
    groups: int = 1
    added_to: str | None = None
    is_matrix: bool = False

    @property
    def touched(self) -> bool:
        """Whether anything of it, or of what its layer adds, went or changed."""
        same = len(self.kept) == len(self.dense) and bool(np.array_equal(self.dense, self.small))
        return not same or (self.bias is not None and self.bias.held)


def compare(dense: ir.Model, small: ir.Model, keep: KeepFile) -> list[Constant]:
    """The initializers of floating-point numbers of two models, of which one was made of the other.

    Args:
        dense: as it was exported.
        small: as it was written.
        keep: what stays of the initializers of ``dense``.

    Raises:
        ValueError: ``keep`` does not fit ``dense``.
        ModelError: a model is broken.
    """
    caches = caches_of(dense, keep)
    inner = caches.inner(dense)
    raw = couple(prepare(inner, canonical=False), caches=caches.names)
    coupling = couple(prepare(inner), caches=caches.names)
    kept = coupling.keep_indices(raw.same_in(coupling, masks(raw, keep)))
    after = prepare(caches.inner(small))
    order = {node: place for place, node in enumerate(coupling.model.graph)}
    biases, groups = _biases(coupling.model, after, kept)
    layers = find_layers(coupling.model)[0]
    added = {str(use.bias): layer.name for layer in layers for use in layer.uses if use.bias}
    found = []
    for name, value in coupling.model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        shape = tensor.shape.numpy()
        index = [np.array(kept.get(name, {}).get(str(axis), range(n)), int) for axis, n in enumerate(shape)]
        places = np.arange(tensor.size, dtype=np.int64).reshape(shape)
        places = places[np.ix_(*index)] if shape else places
        there = after.graph.initializers.get(name)
        values = np.zeros(places.size) if there is None else _flat(there)
        if values.size != places.size:
            continue  # restated by the smaller model
        found.append(
            Constant(
                name,
                str(value.meta.get(COPY_OF, name)),
                _flat(value),
                places.reshape(-1),
                values,
                tuple(sorted(order[use.node] for use in value.uses() if use.node in order)),
                biases.get(name),
                groups.get(name, 1),
                added.get(name),
                sum(n > 1 for n in shape) > 1,
            )
        )
    return found


def _flat(value: ir.Value) -> Array:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy().astype(np.float64).reshape(-1))


def _biases(
    dense: ir.Model, small: ir.Model, kept: Mapping[str, Mapping[str, object]]
) -> tuple[dict[str, Bias], dict[str, int]]:
    """What layers add, and how many groups they have, by the names of their weights."""
    after = {layer.name: layer for layer in find_layers(small)[0]}
    found, groups = {}, {}
    for layer in find_layers(dense)[0]:
        if layer.integers is not None:
            continue
        g, o, i = layer.layout.goi
        outputs = np.broadcast_to(np.arange(g * o, dtype=np.float64).reshape(g, o, 1), (g, o, i))
        flat = np.rint(layer.layout.to_tensor(outputs) * layer.layout.scale).astype(np.int64).reshape(-1)
        left = after.get(layer.name)
        names = [use.bias for use in layer.uses]
        count = 0 if left is None else left.layout.goi[0] * left.layout.goi[1]
        values = np.zeros(count)
        if left is not None:
            names += [use.bias for use in left.uses]
            groups[layer.name] = left.layout.goi[0]
            if (bias := left.uses[0].bias) is not None:
                values = _flat(small.graph.initializers[bias]) * left.uses[0].bias_scale
        found[layer.name] = Bias(flat, values, any(name is not None for name in names))
    return found, groups
