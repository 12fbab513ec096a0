"""The operator tables as a whole."""

from __future__ import annotations

from obs_onnx.passes.ops import (
    attention,
    control,
    conv,
    elementwise,
    matmul,
    normalization,
    pool,
    recurrent,
    reduce,
    select,
    shape,
)


def test_tables_name_every_operator_once() -> None:
    families = [
        attention,
        control,
        conv,
        elementwise,
        matmul,
        normalization,
        pool,
        recurrent,
        reduce,
        select,
        shape,
    ]
    names = [name for family in families for name in family.TABLE]
    assert len(names) == len(set(names))
