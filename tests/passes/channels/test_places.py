"""Channels in canonical weights."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from channel_graphs import check, found, model, node, normal
from channel_helpers import random_keep, run

from obs_onnx.passes.channels.places import consumed, produced
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.layers.find_layers import find_layers


def test_columns_and_rows_of_the_canonical_weight() -> None:
    """Silencing a channel's columns in w_GOI is what removing it does to the consumer's weight."""
    nodes = [
        node("Conv", "x a", "s"),
        node("Conv", "s b", "t", group=2),
        node("ConvTranspose", "t c", "u"),
        node("Flatten", "u", "f"),
        node("Gemm", "f d", "g", transB=1, alpha=0.5),
        node("MatMul", "g e", "y"),
    ]
    weights = {"a": normal(8, 3, 1, 1), "b": normal(6, 4, 3, 3), "c": normal(6, 4, 2, 2)}
    weights |= {"d": normal(5, 4 * 16), "e": normal(5, 3)}
    coupling = found(model(nodes, weights))
    layers, _ = find_layers(coupling.model)
    seen = set()
    for layer in layers:
        tensor = coupling.model.graph.initializers[layer.name].const_value.numpy()
        groups, outputs, inputs = layer.layout.goi
        for group in coupling.groups:
            columns, rows = consumed(coupling, group, layer), produced(coupling, group, layer)
            for channel in range(group.n):
                gone = {g.id: np.arange(g.n) != channel for g in [group]}
                alive = coupling.alive(gone)
                axes = coupling.axes(coupling.model.graph.initializers[layer.name])
                kept = tensor.copy()
                for axis, labels in enumerate(axes):
                    kept[(slice(None),) * axis + (~alive(labels),)] = 0
                matrix = layer.layout.to_matrix(tensor)
                if columns is not None:
                    dead = columns.toarray()[channel].reshape(groups, 1, inputs)
                    matrix = np.where(dead, 0, matrix)
                    seen.add((layer.name, "columns"))
                if rows is not None:
                    dead = rows.toarray()[channel].reshape(groups, outputs, 1)
                    matrix = np.where(dead, 0, matrix)
                    seen.add((layer.name, "rows"))
                np.testing.assert_allclose(matrix, layer.layout.to_matrix(kept))
    assert seen == {(name, "columns") for name in "bcde"} | {(name, "rows") for name in "abcd"}


def test_without_normalization_removal_is_zeroing_the_consumers() -> None:
    """Zeroed input columns of every consumer give what the smaller model gives."""
    nodes = [
        node("Conv", "x a a1", "s", pads=[1] * 4),
        node("Sigmoid", "s", "s1"),
        node("Conv", "s1 b b1", "t", pads=[1] * 4, group=2),
        node("Tanh", "t", "t1"),
        node("ConvTranspose", "t1 c", "u", pads=[1] * 4),
        node("Add", "u s", "v"),
        node("Flatten", "v", "f"),
        node("Gemm", "f d d1", "g"),
        node("Exp", "g", "h"),
        node("MatMul", "h e", "y"),
    ]
    weights = {"a": normal(8, 3, 3, 3), "a1": normal(8), "b": normal(6, 4, 3, 3), "b1": normal(6)}
    weights |= {"c": normal(6, 8, 3, 3), "d": normal(200, 7) / 20, "d1": normal(7), "e": normal(7, 3)}
    coupling = check(model(nodes, weights))
    layers, _ = find_layers(coupling.model)
    for seed in range(3):
        keep = random_keep(coupling, seed)
        zeroed, small = coupling.model.clone(), coupling.model.clone()
        for layer in layers:
            value = zeroed.graph.initializers[layer.name]
            matrix = layer.layout.to_matrix(value.const_value.numpy())
            groups, _, inputs = layer.layout.goi
            for group in coupling.groups:
                columns = consumed(coupling, group, layer)
                if columns is not None:
                    dead = columns.toarray()[~keep[group.id]].any(0).reshape(groups, 1, inputs)
                    matrix = np.where(dead, 0, matrix)
            value.const_value = ir.tensor(layer.layout.to_tensor(matrix).astype(np.float32), name=layer.name)
        RemoveChannels(keep).call(small)
        values = normal(2, 3, 5, 5)
        np.testing.assert_allclose(run(small, values), run(zeroed, values), 1e-4, 1e-4)
