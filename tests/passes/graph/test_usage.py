"""Who needs a value."""

from __future__ import annotations

from obs_onnx.passes.graph.usage import is_used


def test_outputs_of_the_model_are_used_without_a_reader(make_model) -> None:
    model = make_model("g (float[4] x) => (float[4] y) { a = Neg(x) y = Relu(a) b = Exp(a) }")
    used = {str(value.name): is_used(value) for node in model.graph for value in node.outputs}
    assert used == {"a": True, "y": True, "b": False}
