"""Nodes that differ from run to run are named, with what is done about them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from nets import build_model

from obs_onnx.evaluation.varying_nodes import varying_notes


@pytest.mark.parametrize(
    ("nodes", "opset", "said"),
    [
        ("y = Relu(x)", 18, []),
        (
            "n = RandomNormalLike(x)  y = Add(x, n)",
            18,
            ["drawn by Noise (RandomNormalLike)", "same fixed ones"],
        ),
        ("n = RandomNormalLike(x)  y = Add(x, n)", 9, ["Noise (RandomNormalLike) and cannot be fixed"]),
        ("y = Dropout(x, ratio, on)", 18, ["Noise (Dropout) in training mode: turned off"]),
        ("y = Dropout(x, ratio)", 18, []),
    ],
)
def test_notes(nodes: str, opset: int, said: list[str]) -> None:
    text = f"g (float[N,4] x) => (float[N,4] y) {{ {nodes} }}"
    held = {"ratio": np.float32(0.5), "on": np.array(True)}
    model = ir.from_proto(build_model(text, held if "Dropout" in nodes else {}, opset=opset))
    next(iter(model.graph)).name = "Noise"
    notes = varying_notes(model, 8)
    assert len(notes) == bool(said)
    assert all(one in note for note in notes for one in said)
