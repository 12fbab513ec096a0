"""What the checker says of two models, and what is new in the second one."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import build_model

from obs_onnx.verification import checker
from obs_onnx.verification.checker import complaints, new_complaints


def model(shape: str, hidden: int = 5, op: str = "Relu") -> ir.Model:
    text = f"g (float[N,4] x) => (float[{shape}] y) {{ h = MatMul(x, a)  r = {op}(h)  y = MatMul(r, b) }}"
    held = {"a": np.ones((4, hidden), np.float32), "b": np.ones((hidden, 3), np.float32)}
    return ir.from_proto(build_model(text, held))


def test_right_models() -> None:
    assert complaints(model("N,3")) == ()


def test_the_same_fault_with_other_sizes_is_nothing_new() -> None:
    dense, small = complaints(model("N,3,1,1", 8)), complaints(model("N,3,1,1", 5))
    assert any("differ in rank" in one for one in dense)
    assert new_complaints(small, dense) == []
    assert new_complaints(small, ())


def test_operators_that_the_checker_does_not_know() -> None:
    dense, small = complaints(model("N,3", 8, "Reluu")), complaints(model("N,3", 5, "Reluu"))
    assert any("Reluu" in one for one in dense)
    assert new_complaints(small, dense) == []
    assert any("Celuu" in one for one in new_complaints(complaints(model("N,3", 5, "Celuu")), dense))


def test_weights_of_many_bytes_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = complaints(model("N,3,1,1", 500, "Reluu"))
    monkeypatch.setattr(checker, "_LOOKED_AT_BYTES", 1000)
    monkeypatch.setattr(checker, "serialize", None)
    assert complaints(model("N,3,1,1", 500, "Reluu")) == whole
    assert complaints(model("N,3", 500)) == ()
