"""Canonical forms in tests: what is there, and a check that nothing else has changed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx.passes import canonicalize, find_layers


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def value(model: ir.Model, name: str) -> np.ndarray:
    return model.graph.initializers[name].const_value.numpy()


@pytest.fixture
def check(run_model, rng):
    """Canonical form of a proto that computes the same numbers; the original stays as it was."""

    def check(proto: onnx.ModelProto, feeds: dict[str, np.ndarray], rtol: float = 1e-5) -> ir.Model:
        before, wanted = proto.SerializeToString(), run_model(proto, feeds)
        original = ir.from_proto(proto)
        model = canonicalize(original)
        got = run_model(model, feeds)
        assert list(got) == list(wanted)
        for name, array in wanted.items():
            np.testing.assert_allclose(got[name], array, rtol=rtol, atol=rtol * np.abs(array).max())
        fed = {i.name for i in proto.graph.input} - {t.name for t in proto.graph.initializer}
        after = ir.to_proto(model).graph
        assert [i for i in after.input if i.name in fed] == [i for i in proto.graph.input if i.name in fed]
        assert list(after.output) == list(proto.graph.output)
        assert ir.to_proto(original).graph.node == ir.to_proto(ir.from_proto(_parse(before))).graph.node
        assert proto.SerializeToString() == before
        again = canonicalize(model)
        assert operators(again) == operators(model)
        assert find_layers(again) == find_layers(model)
        return model

    return check


def _parse(data: bytes) -> onnx.ModelProto:
    return onnx.load_model_from_string(data)
