"""What is said of a model that is opened."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx import prune

RNG = np.random.default_rng(0)
BRANCHES = """s = ReduceMax<keepdims = 0>(x)  c = Greater(s, zero)  y = If (c) <
    then_branch = one () => (float[%s,4] t) { t = MatMul(r, v) },
    else_branch = two () => (float[%s,4] e) { n = Neg(r)  e = MatMul(n, v) }
>"""


@pytest.mark.parametrize(
    ("batch", "last", "told"),
    [
        ("1", "y = MatMul(r, v)", None),
        ("1", BRANCHES % ("1", "1"), "If, has a body of its own"),
        ("N", BRANCHES % ("N", "N"), None),
    ],
)
def test_a_batch_that_stays_fixed_is_told(make_proto, batch: str, last: str, told: str | None) -> None:
    weights = {
        "w": RNG.standard_normal((6, 32)),
        "u": RNG.standard_normal((32, 16)),
        "v": RNG.standard_normal((16, 4)),
        "zero": np.zeros(1),
    }
    text = f"""g (float[{batch},6] x) => (float[{batch},4] y) {{
        a = MatMul(x, w)  h = Relu(a)  q = MatMul(h, u)  r = Relu(q)  {last}
    }}"""
    weights = {name: array.astype(np.float32) for name, array in weights.items() if f"{name})" in text}
    x = RNG.standard_normal((64, 6)).astype(np.float32)
    found = prune(make_proto(text, weights), calib={"x": x}, targets={"macs": 0.6}, effort="quick")
    notes = [note for note in found.report.notes if "fixed batches" in note]
    assert len(notes) == (told is not None)
    if told is not None:
        assert found.report.after.macs <= 0.6 * found.report.before.macs
        assert told in notes[0]
