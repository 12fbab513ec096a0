"""Files that are no models, or whose parts make no sense."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx_files import fails, store

from obs_onnx.io.onnx_file import from_proto, load_model
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.errors import ModelError


class TestMalformed:
    def test_missing_file(self, tmp_path):
        fails(tmp_path / "nowhere.onnx", "does not exist")

    def test_folder(self, tmp_path):
        fails(tmp_path, "folder")

    @pytest.mark.parametrize(
        "content",
        [
            b"import torch\nprint('hello')\n",
            b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
            b"PK\x03\x04" * 50,
            b"\0" * 100,
            np.random.default_rng(1).bytes(5000),
        ],
        ids=["text", "png", "zip", "zeros", "random"],
    )
    def test_no_model(self, tmp_path, content):
        path = tmp_path / "m.onnx"
        path.write_bytes(content)
        fails(path, "not an ONNX model")

    def test_empty(self, tmp_path):
        path = tmp_path / "m.onnx"
        path.touch()
        fails(path, "empty")

    def test_every_truncation(self, proto, tmp_path):
        data, path = proto.SerializeToString(), tmp_path / "m.onnx"
        for length in range(1, len(data), 7):
            path.write_bytes(data[:length])
            with pytest.raises(ModelError):
                load_model(path)

    def test_no_graph(self, tmp_path):
        fails(store(onnx.ModelProto(ir_version=8), tmp_path), "no graph")

    def test_no_outputs(self, proto, tmp_path):
        del proto.graph.output[:]
        fails(store(proto, tmp_path), "no outputs")

    def test_dangling_input(self, proto, tmp_path):
        proto.graph.node[0].input[1] = "v"
        fails(store(proto, tmp_path), "'v'", "MatMul")

    def test_dangling_output(self, proto, tmp_path):
        proto.graph.output[0].name = "z"
        fails(store(proto, tmp_path), "'z'")

    @pytest.mark.parametrize("opset", [1, 6])
    def test_old_opset(self, proto, tmp_path, opset):
        proto.opset_import[0].version = opset
        fails(store(proto, tmp_path), f"opset {opset}", "version_converter")

    def test_opset_of_the_future(self, proto, tmp_path):
        proto.opset_import[0].version = 999
        fails(store(proto, tmp_path), "opset 999", "upgrade")

    def test_opset_7_is_fine(self, proto, tmp_path):
        proto.opset_import[0].version = 7
        assert load_model(store(proto, tmp_path)).opset_imports[""] == 7

    def test_data_shorter_than_shape(self, proto, tmp_path):
        proto.graph.initializer[0].dims[0] = 9
        fails(store(proto, tmp_path), "'w'", "144 bytes", "128")

    def test_huge_shape_in_a_tiny_file(self, proto, tmp_path):
        proto.graph.initializer[0].dims[0] = 2**60
        fails(store(proto, tmp_path), "'w'", "truncated or broken")

    def test_weight_without_data(self, proto, tmp_path):
        proto.graph.initializer[0].ClearField("raw_data")
        fails(store(proto, tmp_path), "'w'", "32 numbers and has 0")

    def test_negative_shape(self, proto, tmp_path):
        proto.graph.initializer[0].dims[0] = -8
        fails(store(proto, tmp_path), "negative")

    @pytest.mark.parametrize("data_type", [0, 1000])
    def test_unknown_type(self, proto, tmp_path, data_type):
        proto.graph.initializer[0].data_type = data_type
        fails(store(proto, tmp_path), "type")

    def test_constant_in_a_subgraph(self, make_proto, tmp_path):
        proto = make_proto(
            """g (bool c, float[4] x) => (float[4] y) {
                y = If(c) <then_branch = t () => (float[4] a) { k = Constant <value = float[4] {1,2,3,4}> ()
                    a = Add(x, k) }, else_branch = e () => (float[4] b) { b = Identity(x) }>
            }"""
        )
        body = next(a for a in proto.graph.node[0].attribute if a.name == "then_branch").g
        body.node[0].attribute[0].t.dims[0] = 2**50
        fails(store(proto, tmp_path), "truncated or broken")

    def test_circle(self, make_proto, tmp_path):
        proto = make_proto("g (float[4] x) => (float[4] y) { y = Add(x, z)  z = Relu(y) }")
        fails(store(proto, tmp_path), "broken")


class TestCustomOperators:
    TEXT = "g (float[4] x) => (float[4] y) { [mine] y = com.acme.Warp(x) }"

    def test_named(self, make_proto, tmp_path):
        head = '<ir_version: 8, opset_import: ["" : 18, "com.acme" : 1]>'
        path = store(make_proto(head + self.TEXT), tmp_path)
        fails(path, "'mine'", "com.acme::Warp", "custom_ops")
        assert load_model(path, custom_domains=["com.acme"]).graph[0].op_type == "Warp"

    def test_local_functions_are_no_custom_operators(self, make_proto):
        head = '<ir_version: 8, opset_import: ["" : 18, "com.acme" : 1]>'
        function = '<domain: "com.acme", opset_import: ["" : 18]> Warp (a) => (b) { b = Relu(a) }'
        assert from_proto(make_proto(head + self.TEXT + function)).functions

    def test_known_to_onnxruntime(self, make_proto):
        model = from_proto(make_proto("g (float[4] x) => (float[4] y) { y = com.microsoft.QuickGelu(x) }"))
        assert model.graph[0].domain == "com.microsoft"


class TestBrokenDetails:
    """Files that parse, but whose parts make no sense: errors while loading or in the first passes."""

    @pytest.fixture
    def convolution(self, make_proto):
        weights = {"w": np.ones((2, 3, 2, 2), np.float32)}
        return make_proto(
            "g (float[N,3,4,4] x) => (float[N,3,3,3] y) { v = Transpose <perm = [1, 0, 2, 3]> (w) "
            "y = Conv <group = 1> (x, v) }",
            weights,
        )

    @pytest.mark.parametrize(
        ("node", "kind"), [(0, onnx.AttributeProto.UNDEFINED), (1, onnx.AttributeProto.FLOATS), (1, 0)]
    )
    def test_attribute_of_another_type(self, convolution, node, kind):
        convolution.graph.node[node].attribute[0].type = kind
        with pytest.raises(ModelError):
            canonicalize(from_proto(convolution))

    def test_impossible_view(self, convolution):
        convolution.graph.node[0].attribute[0].ints[0] = 7
        with pytest.raises(ModelError):
            canonicalize(from_proto(convolution))

    def test_flipped_bytes(self, convolution, tmp_path):
        data, rng = convolution.SerializeToString(), np.random.default_rng(0)
        path, raised = tmp_path / "m.onnx", 0
        for position in rng.integers(0, len(data), 300):
            path.write_bytes(data[:position] + rng.bytes(1) + data[position + 1 :])
            try:
                canonicalize(load_model(path))
            except ModelError:
                raised += 1
        assert raised > 100
