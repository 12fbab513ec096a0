"""Differences of arrays, relative to what is compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.errors import VerificationError
from obs_onnx.verification.layer_errors import difference, energy, finite

__all__ = ["norm", "refusal", "relative", "tolerance_of"]

_EXACT = "OSUbiu"  # kinds of what holds no fractions


def norm(y: NDArray[Any]) -> float:
    """Frobenius norm of what is finite; 0 of what holds no numbers."""
    return float(np.sqrt(energy(finite(y))))


def relative(y: NDArray[Any], reference: NDArray[Any], scale: float) -> float:
    """Frobenius norm of the difference, divided by ``scale`` (the norm of ``reference`` where that is 0).

    Equal infinities, and NaN at the same places, do not differ. Infinite for other shapes, other integers,
    truth values or strings, and for NaN or infinities at other places.
    """
    if y.shape != reference.shape:
        return float("inf")
    if reference.dtype.kind in _EXACT:
        return 0.0 if np.array_equal(y, reference) else float("inf")
    a, b = y.astype(np.float64), reference.astype(np.float64)
    if (np.isnan(a) != np.isnan(b)).any():
        return float("inf")
    return float(np.sqrt(energy(np.where(np.isnan(b), 0.0, difference(a, b))))) / (
        scale or norm(reference) or 1.0
    )


def tolerance_of(y: NDArray[Any]) -> float:
    """Relative difference that rounding may make of numbers of this type."""
    return 3e-2 if y.dtype.kind not in _EXACT and y.dtype.itemsize < 4 else 1e-3


def refusal(what: str, y: NDArray[Any], reference: NDArray[Any], difference: float) -> VerificationError:
    """The error of a value that differs by more than rounding."""
    if y.shape != reference.shape:
        return VerificationError(f"{what} has shape {y.shape} without the channels, not {reference.shape}")
    by = f" by {difference:.1e}" if np.isfinite(difference) else ""
    return VerificationError(
        f"the smaller model differs{by} in {what} from the dense one with the channels silenced"
    )
