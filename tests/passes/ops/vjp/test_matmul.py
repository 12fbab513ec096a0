"""Derivatives of matrix products against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from derivatives import check
from hypothesis import given, settings
from hypothesis import strategies as st

rng = np.random.default_rng(5)


def normal(*shape):
    return rng.standard_normal(shape)


@st.composite
def products(draw):
    """Shapes of a and b, vectors included, whose leading axes broadcast."""
    m, k, n = (draw(st.integers(1, 4)) for _ in range(3))
    lead = draw(st.lists(st.integers(1, 3), max_size=2))
    a, b = (
        [1 if draw(st.booleans()) else n for n in lead[draw(st.integers(0, len(lead))) :]] for _ in range(2)
    )
    left, right = draw(st.booleans()), draw(st.booleans())
    return (k,) if left else (*a, m, k), (k,) if right else (*b, k, n)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(products(), st.booleans(), st.sampled_from([(0, 1), (0,), (1,)]))
def test_matmul(shapes, symbolic, wrt):
    check("MatMul", [normal(*shape) for shape in shapes], wrt, symbolic=symbolic)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c", [None, (), (4,), (3, 1), (3, 4)])
def test_gemm(trans_a, trans_b, c):
    a, b = normal(*((2, 3) if trans_a else (3, 2))), normal(*((4, 2) if trans_b else (2, 4)))
    inputs = [a, b] if c is None else [a, b, normal(*c)]
    wrt = tuple(range(len(inputs)))
    check("Gemm", inputs, wrt, alpha=0.5, beta=1.5, transA=trans_a, transB=trans_b)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)]),
        ("bij,bjk->bik", [(2, 3, 2), (2, 2, 4)]),
        ("ij->j", [(2, 3)]),
        ("ij->ji", [(2, 3)]),
        ("i,j", [(2,), (3,)]),
        ("ij,k->i", [(2, 3), (4,)]),
        ("...ij,...jk->...ik", [(5, 2, 3), (5, 3, 2)]),
        ("...ij,jk->...ik", [(5, 2, 3), (3, 2)]),
        ("bhwc,hkc->bhwk", [(2, 3, 2, 4), (3, 5, 4)]),
        ("i,i,i->", [(3,), (3,), (3,)]),
    ],
)
def test_einsum(equation, shapes):
    check("Einsum", [normal(*shape) for shape in shapes], tuple(range(len(shapes))), equation=equation)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_fused_matmul(trans_a, trans_b):
    a = normal(*((2, 2, 3) if trans_a else (2, 3, 2)))
    b = normal(*((4, 2) if trans_b else (2, 4)))
    check("FusedMatMul", [a, b], (0, 1), domain="com.microsoft", alpha=0.5, transA=trans_a, transB=trans_b)
