"""The polynomial behind a function of whole numbers that can only be evaluated.

A function of ``m`` variables that is a sum of terms ``c * t_1^p * ... * t_m^q`` with exponents from -1 to 2
is determined by its values at four points of each variable. The points 12, 6, 4 and 3 keep divisions by a
variable whole when every operand is a multiple of what it is divided by at ``t = 1``. The inverse Vandermonde
matrix times 36 is whole too, so that the coefficients come out exactly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

__all__ = ["interpolate"]

_POINTS, _EXPONENTS, _SCALE = (12, 6, 4, 3), (-1, 0, 1, 2), 36
_INVERSE = np.array(  # _SCALE times the inverse of point ** exponent
    [[-72, 864, -1944, 1152], [54, -576, 1134, -576], [-13, 114, -189, 88], [1, -6, 9, -4]], object
)


def interpolate(
    function: Callable[[Sequence[int]], int], variables: int
) -> dict[tuple[int, ...], Fraction] | None:
    """Coefficient by exponents of the variables, or None where ``function`` is no such polynomial.

    Args:
        function: whole number for whole numbers; it is called ``4 ** variables + 1`` times.
        variables: how many numbers it takes.
    """
    grid = itertools.product(_POINTS, repeat=variables)
    values = np.empty(4**variables, object)
    values[:] = [int(function(times)) for times in grid]
    values = values.reshape((4,) * variables)
    for _ in range(variables):  # each turn takes the first axis and puts its exponents last
        values = np.tensordot(values, _INVERSE, axes=(0, 1))
    found = {
        exponents: Fraction(int(value), _SCALE**variables)
        for exponents, value in zip(itertools.product(_EXPONENTS, repeat=variables), values.flat, strict=True)
        if value
    }
    other = [(24, 36, 48)[i % 3] for i in range(variables)]
    at_other = sum(
        part * math.prod(Fraction(t) ** p for t, p in zip(other, exponents, strict=True))
        for exponents, part in found.items()
    )
    return found if at_other == function(other) else None
