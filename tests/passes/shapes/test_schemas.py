"""The schema that holds in an opset, and that of an operator which the opset does not have yet."""

from __future__ import annotations

import onnx
import pytest

from obs_onnx.passes.shapes.schemas import schema_of


@pytest.mark.parametrize(
    ("name", "opset", "since"),
    [
        ("Relu", 12, 6),
        ("Relu", 18, 14),
        ("LayerNormalization", 17, 17),
        ("LayerNormalization", 12, 17),  # which onnxruntime writes into older models
        ("Softmax", 12, 11),
    ],
)
def test_versions(name: str, opset: int, since: int) -> None:
    schema = schema_of("", name, opset)
    assert schema is not None
    assert schema.since_version == since


@pytest.mark.parametrize(
    ("domain", "name", "opset"),
    [
        ("", "SimplifiedLayerNormalization", 17),
        ("com.microsoft", "FusedConv", 1),
        ("", "Relu", onnx.defs.onnx_opset_version() + 1),
    ],
)
def test_what_onnx_does_not_know(domain: str, name: str, opset: int) -> None:
    assert schema_of(domain, name, opset) is None
