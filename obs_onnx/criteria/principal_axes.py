"""Axes of a stream of channels along which little is lost: those on which its readers depend least.

With the second moments ``H`` of what the readers of a stream see and their weights ``W``, the functionals of
the stream that keep most of ``W x`` in the least-squares sense are ``V' H^(-1/2)``, where ``V`` are the
eigenvectors of ``H^(1/2) W' W H^(1/2)`` with the largest eigenvalues (reduced-rank regression). Made
orthonormal in this order they are a basis whose first ``k`` axes span the best ``k`` functionals, for every
k. Readers count relative to the energy of what they give.

Where the vector of ones has to stay, the axes lie across it, and the new channels are their coordinates in a
Helmert basis, each vector of which has its ones on the first channels alone: what the last channels take
along is the same for all that stay, and a LayerNormalization of these removes it.

Sources: Ashkboos et al. 2024, SliceGPT, arXiv 2401.15024 (principal axes of the stream); Izenman 1975,
Reduced-rank regression for the multivariate linear model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, helmert, qr

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.passes.channels.places import elements_along
from obs_onnx.passes.channels.rotation.rotate import array_of, blocks, factors, places
from obs_onnx.passes.channels.rotation.scan import Rotatable
from obs_onnx.passes.layers.layer import Layer

__all__ = ["principal_axes"]

Float = NDArray[np.float64]
Block = tuple[int, ...]

_SMALL = 1e-8  # share of the largest eigenvalue of the moments that counts as nothing


@dataclass
class _Seen:
    """What readers see of a block, and what they do with it: (channels, channels) each."""

    moments: Float
    weights: Float


def principal_axes(evidence: ChannelStatistics, found: Rotatable) -> dict[Block, Float]:
    """Orthogonal matrices for the blocks of a group, the axes that count most first.

    Args:
        evidence: the model and its calibration data.
        found: the group.

    Raises:
        Stays: the group cannot be rotated after all.
    """
    n = found.group.n
    seen = {block: _Seen(np.zeros((n, n)), np.zeros((n, n))) for block in blocks(evidence.coupling, found)}
    for layer in evidence.layers:
        if layer.name in found.readers:
            _read(evidence, found, layer, seen)
    evidence.forget(found.group)
    return {block: _axes(one, found.keeps_ones) for block, one in seen.items()}


def _read(evidence: ChannelStatistics, found: Rotatable, layer: Layer, seen: Mapping[Block, _Seen]) -> None:
    """Add what a layer sees."""
    posed = evidence.posed(layer)
    h_II, w_OI = posed.problem.a[0], posed.w_GOI[0]
    energy = float(np.einsum("oi,ij,oj->", w_OI, h_II, w_OI)) or 1.0
    arrays = {name: array_of(evidence.coupling, name) for how in found.sites.values() for name, _ in how.fold}
    for site, how in found.sites.items():
        if site.initializer != layer.name or site not in _read_sites(evidence, found, layer):
            continue
        factor = factors(found, how.fold, arrays)
        element_I = elements_along(layer.layout, site.axis)[0, 0]
        columns = {int(e): np.flatnonzero(element_I == e) for e in np.unique(element_I)}
        for block, rows_MC in places(evidence.coupling, found, *site).items():
            for row_C in rows_MC:
                for column_C in np.stack([columns[e] for e in row_C.tolist()], 1):  # kernel offsets
                    seen[block].moments += h_II[np.ix_(column_C, column_C)] / np.outer(factor, factor)
                    w_OC = w_OI[:, column_C] * factor
                    seen[block].weights += w_OC.T @ w_OC / energy


def _read_sites(evidence: ChannelStatistics, found: Rotatable, layer: Layer) -> set[tuple[str, int]]:
    """Axes of a layer's weight over which it sums channels of the group."""
    return {
        (str(value.name), mix.axis)
        for mix in evidence.coupling.graph.mixes
        if mix.kind == "sum"
        and (value := mix.node.inputs[mix.slot]) is not None
        and value.name == layer.name
        and evidence.coupling.has(found.group, mix.labels)
    }


def _axes(seen: _Seen, keeps_ones: bool) -> Float:
    """The matrix for one block."""
    n = len(seen.moments)
    if not keeps_ones:
        return np.asarray(_basis(seen.moments, seen.weights).T)
    across_CD = helmert(n).T  # column j: j + 1 ones in front, what balances them, and zeros
    inside = _basis(across_CD.T @ seen.moments @ across_CD, across_CD.T @ seen.weights @ across_CD)
    return np.asarray(across_CD @ (across_CD @ inside).T + 1.0 / n)


def _basis(moments: Float, weights: Float) -> Float:
    """Orthonormal columns, those that count most first."""
    energy, axes = eigh(moments)
    energy = np.maximum(energy, _SMALL * max(energy[-1], np.finfo(float).tiny))
    root = (axes * np.sqrt(energy)) @ axes.T
    inverse = (axes / np.sqrt(energy)) @ axes.T
    _, order = eigh(root @ weights @ root)
    return np.asarray(qr(inverse @ order[:, ::-1])[0])
