"""Axes of a stream: those that its readers need come first."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from channel_graphs import model, node
from channel_helpers import opened

from obs_onnx.criteria.principal_axes import principal_axes
from obs_onnx.passes.channels.rotation.rotatable import rotatable
from obs_onnx.passes.channels.rotation.rotate import array_of, rotate

N, RANK = 8, 3


def narrow(norm: bool) -> onnx.ModelProto:
    """A stream of N channels with RANK directions that matter."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((5, RANK)) @ rng.standard_normal((RANK, N))
    held = {"w": w + 1e-3 * rng.standard_normal((5, N)), "v": rng.standard_normal((N, 4))}
    nodes = [node("MatMul", "x w", "h"), node("MatMul", "h v", "y")]
    if norm:
        held |= {"s": rng.uniform(0.5, 2, N), "t": rng.standard_normal(N)}
        nodes[1:] = [node("LayerNormalization", "h s t", "z", axis=-1), node("MatMul", "z v", "y")]
    arrays = {name: array.astype(np.float32) for name, array in held.items()}
    return model(nodes, arrays, x=("N", 5), y=("N", 4))


@pytest.mark.parametrize(("norm", "kept"), [(False, RANK), (True, RANK + 1)])
def test_what_matters_lies_on_the_first_axes(norm: bool, kept: int) -> None:
    """Behind a LayerNormalization one channel more says where the mean is."""
    x = np.random.default_rng(1).standard_normal((500, 5)).astype(np.float32)
    _, coupling, _, evidence = opened(narrow(norm), x)
    group = next(group for group in coupling.groups if group.n == N)
    found = rotatable(coupling, group)
    ((block, matrix),) = principal_axes(evidence, found).items()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(N), atol=1e-9)
    if norm:
        np.testing.assert_allclose(matrix @ np.ones(N), np.ones(N), atol=1e-9)
    arrays = {site.initializer: array_of(coupling, site.initializer) for site in found.sites}
    changed = rotate(coupling, found, {block: matrix}, arrays)
    h = x @ changed["w"]
    front = h[:, :kept]
    if norm:
        front, h = front - front.mean(1, keepdims=True), h - h.mean(1, keepdims=True)
        front, h = front / h.std(1, keepdims=True), h / h.std(1, keepdims=True)
    y = h @ changed["v"]
    left = y - front @ np.linalg.lstsq(front, y)[0]
    assert np.square(left).sum() < 1e-3 * np.square(y).sum()
