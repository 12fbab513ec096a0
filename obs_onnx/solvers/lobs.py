"""L-OBS as published: Dong, Chen & Pan, "Learning to Prune Deep Neural Networks via Layer-wise Optimal Brain
Surgeon", NIPS 2017.

The layer-wise Hessian is block diagonal with the same block for every output (section 3.3),
``Psi = 1/n sum_j y_j y_j^T`` over the layer's inputs y, the bias being an input that is always one. Then

    sensitivity   L_q = w_q^2 / (2 [Psi^-1]_qq)                                        (eq. 5)
    update        dw  = -w_q / [Psi^-1]_qq Psi^-1 e_q                                  (eq. 5)
    Psi_0 = alpha I,
    Psi_{j+1}^-1 = Psi_j^-1 - Psi_j^-1 y y^T Psi_j^-1 / (n + y^T Psi_j^-1 y)           (eq. 10)

Algorithm 1: (1) a forward pass gives the inputs, (2) the inverse Hessian, (3) the sensitivities of all
weights, once, (4) the weight of smallest sensitivity is removed and the others of its row are updated, (5)
until the wanted share is gone. The inverse never changes, and a removed weight stays zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.errors import OptionError

__all__ = ["append_one", "inverse_hessian", "lobs_levels", "sensitivities", "woodbury"]

Float = NDArray[np.float64]


def append_one(moment_II: Float, sum_I: Float, count: int) -> Float:
    """Second moment of ``[x, 1]`` from that of x, its sum and the number of samples (for the bias)."""
    size = len(sum_I)
    result = np.empty((size + 1, size + 1))
    result[:size, :size] = moment_II
    result[size, :size] = result[:size, size] = sum_I
    result[size, size] = count
    return result


def woodbury(y_NI: NDArray[np.floating], alpha: float = 1e-6) -> Float:
    """Inverse Hessian (I, I) by the recursion of eq. 10 over samples ``y_NI``."""
    count, size = y_NI.shape
    inverse = np.eye(size) / alpha
    for y in y_NI.astype(np.float64):
        v = inverse @ y
        inverse -= np.outer(v, v) / (count + y @ v)
    return inverse


def inverse_hessian(moment_II: Float, count: int, alpha: float = 1e-6) -> Float:
    """The same in closed form from the moment: ``(moment / count + alpha I)^-1``."""
    inverse = np.linalg.inv(moment_II / count + alpha * np.eye(len(moment_II)))
    return np.asarray((inverse + inverse.T) / 2)


def sensitivities(w_OI: Float, inverse_II: Float) -> Float:
    """L_q of every weight (O, I), eq. 5."""
    return np.asarray(w_OI**2 / (2 * np.diagonal(inverse_II, axis1=-2, axis2=-1)[..., None, :]))


def lobs_levels(
    w_GOI: Float, inverse_GII: Float, sparsities: Sequence[float], frozen: Sequence[int] = ()
) -> Iterator[tuple[Float, NDArray[np.bool_]]]:
    """Algorithm 1, steps 3 to 5, stopping at each of several shares.

    Args:
        w_GOI: dense weights.
        inverse_GII: inverse Hessian of each group.
        sparsities: shares of the prunable weights to remove, not decreasing.
        frozen: columns that are updated but never removed (the bias).

    Yields:
        Updated weights and kept weights, both (G, O, I), for each share.

    Raises:
        OptionError: the shares decrease or leave [0, 1].
    """
    if list(sparsities) != sorted(sparsities) or any(not 0 <= s <= 1 for s in sparsities):
        raise OptionError("sparsities must grow and lie between 0 and 1")
    groups, rows, columns = w_GOI.shape
    scores = sensitivities(w_GOI, inverse_GII)
    scores[:, :, list(frozen)] = np.inf
    steps = columns - len(set(frozen))
    order = np.argsort(scores, axis=2, kind="stable")[:, :, :steps].reshape(-1, steps)
    key = np.take_along_axis(scores.reshape(-1, columns), order, axis=1)
    ranked = np.argsort(key.ravel(), kind="stable") // max(1, steps)
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
