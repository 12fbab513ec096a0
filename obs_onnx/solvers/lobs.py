"""L-OBS as published: Dong, Chen & Pan, "Learning to Prune Deep Neural Networks via Layer-wise Optimal Brain
Surgeon", NIPS 2017.

The layer-wise Hessian is block diagonal with the same block for every output (section 3.3),
``Psi = 1/n sum_j y_j y_j^T`` over the layer's inputs y. Then

    sensitivity   L_q = w_q^2 / (2 [Psi^-1]_qq)                                        (eq. 5)
    update        dw  = -w_q / [Psi^-1]_qq Psi^-1 e_q                                  (eq. 5)

The paper builds the inverse sample by sample from ``alpha I`` (eq. 10) and takes the bias for an input that
is always one. Here the damped moments are inverted at once, and are about the mean where there is a bias,
which gives the same for the other inputs; the scale of Psi does not matter to the choice.

Algorithm 1: (1) a forward pass gives the inputs, (2) the inverse Hessian, (3) the sensitivities of all
weights, once, (4) the weight of smallest sensitivity is removed and the others of its row are updated, (5)
until the wanted share is gone. The inverse never changes, and a removed weight stays zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.errors import OptionError

__all__ = ["lobs_levels", "sensitivities"]

Float = NDArray[np.float64]


def sensitivities(w_OI: Float, inverse_II: Float) -> Float:
    """L_q of every weight (O, I), eq. 5."""
    return np.asarray(w_OI**2 / (2 * np.diagonal(inverse_II, axis1=-2, axis2=-1)[..., None, :]))


def lobs_levels(
    w_GOI: Float, inverse_GII: Float, sparsities: Sequence[float]
) -> Iterator[tuple[Float, NDArray[np.bool_]]]:
    """Algorithm 1, steps 3 to 5, stopping at each of several shares.

    Args:
        w_GOI: dense weights.
        inverse_GII: inverse Hessian of each group.
        sparsities: shares of the weights to remove, not decreasing.

    Yields:
        Updated weights and kept weights, both (G, O, I), for each share.

    Raises:
        OptionError: the shares decrease or leave [0, 1].
    """
    if list(sparsities) != sorted(sparsities) or any(not 0 <= s <= 1 for s in sparsities):
        raise OptionError("sparsities must grow and lie between 0 and 1")
    groups, rows, columns = w_GOI.shape
    scores = sensitivities(w_GOI, inverse_GII)
    order = np.argsort(scores, axis=2, kind="stable").reshape(-1, columns)
    key = np.take_along_axis(scores.reshape(-1, columns), order, axis=1)
    ranked = np.argsort(key.ravel(), kind="stable") // max(1, columns)
    w = w_GOI.reshape(-1, columns).copy()
    keep = np.ones(w.shape, bool)
    group_of = np.repeat(np.arange(groups), rows)
    diagonal = np.einsum("gii->gi", inverse_GII)
    done = np.zeros(len(w), np.int64)
    for sparsity in sparsities:
        wanted = np.bincount(ranked[: round(sparsity * key.size)], minlength=len(w))
        while (active := np.flatnonzero(done < wanted)).size:
            q = order[active, done[active]]
            g = group_of[active]
            ratio = w[active, q] / diagonal[g, q]
            keep[active, q] = False
            w[active] = (w[active] - ratio[:, None] * inverse_GII[g, q]) * keep[active]
            done[active] += 1
        yield w.reshape(w_GOI.shape).copy(), keep.reshape(w_GOI.shape).copy()
