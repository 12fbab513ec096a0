"""Inputs that users set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from nets import run_proto

from obs_onnx.data.fixed import all_with_fixed, with_fixed
from obs_onnx.passes.errors import OptionError

TEXT = "g (float[N,2] x, float[2] v, int64 k, float[N,2] w) => (float[N,2] y) { f = Cast <to = 1> (k) "
TEXT += " a = Mul(x, v)  b = Mul(a, f)  y = Add(b, w) }"


@pytest.mark.parametrize(
    ("fix", "v", "k"),
    [
        (["v=[1.5,2]", "k=3"], [1.5, 2], 3),
        (["v=1.5,2", "k=3"], [1.5, 2], 3),
        (["v=2", "k=3"], [2, 2], 3),
        ({"v": np.array([1, 2]), "k": 4.0}, [1, 2], 4),
        (["v=FILE", "k=1e1"], [5, 6], 10),
    ],
)
def test_values_take_the_type_and_shape_of_the_input(make_model, tmp_path: Path, fix, v, k) -> None:
    np.save(tmp_path / "v.npy", np.array([5.0, 6.0]))
    if isinstance(fix, list):
        fix = [text.replace("FILE", str(tmp_path / "v.npy")) for text in fix]
    model = with_fixed(make_model(TEXT), fix)
    assert [value.name for value in model.graph.inputs] == ["x", "w"]
    x = np.ones((3, 2), np.float32)
    np.testing.assert_allclose(run_proto(ir.to_proto(model), {"x": x, "w": x})["y"], x * v * k + 1)


def test_nothing_set_is_the_model_itself(make_model) -> None:
    model = make_model(TEXT)
    assert with_fixed(model, ()) is model
    assert with_fixed(model, {"other": 1}, partly=True) is model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("k", "'k' is not NAME=VALUE"),
        ("q=1", "no such input; its inputs are x, v, k, w"),
        ("k=1.5", "does not fit the type int64"),
        ("k=[1,2]", "shape"),
        ("v=[1,2,3]", "shape"),
        ("w=1", "give the whole array"),
        ("k=three", "is no number"),
        ("k=missing.npy", "cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused(make_model, text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        with_fixed(make_model(TEXT), [text])


def test_of_several_models_one_has_to_have_the_input(make_model) -> None:
    dense = make_model(TEXT)
    done = with_fixed(dense, ["k=2"])
    again = all_with_fixed([dense, done], ["k=2"])
    assert again[1] is done
    assert len(again[0].graph.inputs) == 3
    with pytest.raises(OptionError, match="no such input"):
        all_with_fixed([dense, done], ["q=2"])
