"""Derivatives of elementwise operators of several operands against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from derivatives import check
from hypothesis import given, settings
from hypothesis import strategies as st

rng = np.random.default_rng(3)

AROUND_ZERO = np.array([-3.7, -2.2, -1.3, -0.6, -0.2, 0.15, 0.4, 0.8, 1.4, 2.6, 3.9])
POSITIVE = np.array([0.2, 0.5, 0.9, 1.3, 2.1])


def normal(*shape):
    return rng.standard_normal(shape)


@st.composite
def broadcasts(draw, count):
    """Shapes that broadcast to one."""
    full = draw(st.lists(st.integers(1, 4), max_size=4))
    shapes = []
    for _ in range(count):
        start = draw(st.integers(0, len(full)))
        shapes.append(tuple(1 if draw(st.booleans()) else n for n in full[start:]))
    return shapes


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from(["Add", "Sub", "Mul", "Div", "Pow", "Max", "Min"]),
    broadcasts(2),
    st.booleans(),
    st.sampled_from([(0, 1), (0,), (1,)]),
)
def test_two_operands(op_type, shapes, symbolic, wrt):
    a, b = (
        rng.permutation(np.prod(shape, dtype=int)).reshape(shape) / 7.0 + 0.5 + k / 15.0
        for k, shape in enumerate(shapes)
    )
    check(op_type, [a, b], wrt, symbolic=symbolic, tolerance=1e-5)


@pytest.mark.parametrize("op_type", ["Max", "Min", "Sum", "Mean"])
def test_many_operands(op_type):
    check(op_type, [normal(2, 3), normal(3), normal(2, 1), normal(1, 1)], (0, 1, 2, 3))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, -1.5, 0.5])
@pytest.mark.parametrize("kind", [np.float64, np.int64])
def test_power_by_a_constant(exponent, kind):
    if kind is np.float64 or exponent == int(exponent):
        check("Pow", [POSITIVE, np.array(exponent, kind)])


def test_power_of_negative_numbers():
    check("Pow", [AROUND_ZERO, np.array(3.0)])


def test_where():
    condition = np.array([[True, False, True], [False, False, True]])
    check("Where", [condition, normal(2, 3), normal(3)], (1, 2))
    check("Where", [condition, normal(), normal(2, 1)], (1, 2), symbolic=True)


def test_modulus():
    check("Mod", [np.array([5.3, -5.3, 2.2]), np.array([2.0, 2.0, -1.5])], (0, 1), fmod=1)
