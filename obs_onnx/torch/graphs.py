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
        shape: of the dense model.
        small: new values of what stays, flat.
        users: places of the nodes that use it, in the order of the graph, and which input of theirs it is.
        bias: of the layer whose weight it is.
        groups: of that layer in the smaller model.
        added_to: name of the weight of the layer that adds it.
    """

    name: str
    family: str
    dense: Array
    shape: tuple[int, ...]
    kept: Places
    small: Array
    users: tuple[tuple[int, int], ...]
    bias: Bias | None = None
    groups: int = 1
    added_to: str | None = None

    @property
    def is_matrix(self) -> bool:
        """It has at least two axes, of more than one element each."""
        return sum(n > 1 for n in self.shape) > 1

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
    given = {
        (str(node.outputs[0].name), slot): value
        for node in after.graph
        if node.outputs
        for slot, value in enumerate(node.inputs)
        if value is not None
    }
    biases, groups = _biases(coupling.model, after, given)
    layers = find_layers(coupling.model)[0]
    added = {str(use.bias): layer.name for layer in layers for use in layer.uses if use.bias}
    found = []
    for name, value in coupling.model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        shape = tuple(tensor.shape.numpy())
        index = [np.array(kept.get(name, {}).get(str(axis), range(n)), int) for axis, n in enumerate(shape)]
        places = np.arange(tensor.size, dtype=np.int64).reshape(shape)
        places = places[np.ix_(*index)] if shape else places
        there = _same(value, given) or after.graph.initializers.get(name)
        values = np.zeros(places.size) if there is None else _flat(there)
        if values.size != places.size:
            continue  # restated by the smaller model
        found.append(
            Constant(
                name,
                str(value.meta.get(COPY_OF, name)),
                _flat(value),
                shape,
                places.reshape(-1),
                values,
                tuple(sorted((order[node], slot) for node, slot in value.uses() if node in order)),
                biases.get(name),
                groups.get(name, 1),
                added.get(name),
            )
        )
    return found


def _same(value: ir.Value, given: Mapping[tuple[str, int], ir.Value]) -> ir.Value | None:
    """The initializer in the place of another one, which names of copies do not tell.

    Args:
        value: an initializer of the dense model.
        given: inputs of nodes of the smaller one, by the first output of the node and their number.
    """
    for node, slot in value.uses():
        there = given.get((str(node.outputs[0].name), slot))
        if there is not None and there.is_initializer() and there.const_value is not None:
            return there
    return None


def _flat(value: ir.Value) -> Array:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy().astype(np.float64).reshape(-1))


def _biases(
    dense: ir.Model, small: ir.Model, given: Mapping[tuple[str, int], ir.Value]
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
        there = _same(dense.graph.initializers[layer.name], given)
        left = after.get(layer.name if there is None else str(there.name))
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
