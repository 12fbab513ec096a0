"""Which layers take part, what the targets mean, what inspect and the figures say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx import inspect
from obs_onnx.evaluation.model_figures import figures
from obs_onnx.evaluation.run_cost import RunCost
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.costs.memory import Peak
from obs_onnx.passes.errors import OptionError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.pruning.weights.layer_choice import choose_layers, layer_sparsities
from obs_onnx.solvers import parse_pattern


@pytest.fixture
def layers(make_model):
    model = make_model(
        "g (float[N,6,4,4] x) => (float[N,5] y)"
        "{ [first] a = Conv(x, w1) r = Relu(a) [second] b = Conv<group = 2>(r, w2) p = GlobalAveragePool(b)"
        " f = Flatten(p) [head] y = Gemm(f, w3, c) }",
        {
            "w1": np.ones((8, 6, 1, 1), np.float32),
            "w2": np.ones((8, 4, 3, 3), np.float32),
            "w3": np.ones((8, 5), np.float32),
            "c": np.ones(5, np.float32),
        },
    )
    return find_layers(canonicalize(model))[0]


class TestChoice:
    def split(self, choice) -> tuple[list[str], ...]:
        return tuple([layer.name for layer in part] for part in (choice.pruned, choice.dense, choice.kept))

    def test_everything(self, layers) -> None:
        choice = choose_layers(layers, [], parse_pattern(None))
        assert self.split(choice) == (["w1", "w2", "w3"], [], [])
        assert choice.reasons == ()

    @pytest.mark.parametrize("pattern", ["2:4", "1x4", "2x4", "4:8"])
    def test_patterns_need_input_channels_that_they_divide(self, layers, pattern: str) -> None:
        choice = choose_layers(layers, [], parse_pattern(pattern))
        fits = {"4:8": ["w3"]}.get(pattern, ["w2", "w3"])
        assert self.split(choice) == (fits, [name for name in ("w1", "w2") if name not in fits], [])
        assert choice.reasons[0].reason.startswith("6 input channels are no multiple of")

    @pytest.mark.parametrize("text", ["w2", "second", "*2", "sec*", "[vw]2"])
    def test_protection_by_weight_or_node(self, layers, text: str) -> None:
        choice = choose_layers(layers, [text], parse_pattern("2:4"))
        if text in ("w2", "second", "sec*", "[vw]2", "*2"):
            assert self.split(choice) == (["w3"], ["w1"], ["w2"])
        assert ("second", "protected by the user") in [(one.node, one.reason) for one in choice.reasons]

    def test_a_pattern_that_matches_nothing(self, layers) -> None:
        with pytest.raises(OptionError, match=r"protect 'W\*' matches no layer"):
            choose_layers(layers, ["w1", "W*"], parse_pattern(None))

    def test_sparsities_of_layers(self, layers) -> None:
        assert layer_sparsities(layers, {}) == {}
        assert layer_sparsities(layers, {"*": 0.5, "head": 0.0, "w1": 1}) == {"w1": 1, "w2": 0.5, "w3": 0.0}
        with pytest.raises(OptionError, match="matches no layer"):
            layer_sparsities(layers, {"w9": 0.5})
        for value in (-0.1, 1.1, float("nan")):
            with pytest.raises(OptionError, match="between 0 and 1"):
                layer_sparsities(layers, {"w1": value})


def test_inspect_and_figures(make_proto, tmp_path: Path) -> None:
    weight = np.ones((8, 16), np.float32)
    weight[:3] = 0
    proto = make_proto(
        "g (float[N,8] x, int64[N] i) => (float[N,4] y)"
        "{ e = Gather(table, i) a = Gemm(x, w1, b1) s = Add(a, e) y = MatMul(s, w2) }",
        {
            "w1": weight,
            "b1": np.ones(16, np.float32),
            "w2": np.ones((16, 4), np.float16).astype(np.float32),
            "table": np.ones((10, 16), np.float32),
        },
    )
    onnx.save(proto, tmp_path / "m.onnx")
    found = inspect(tmp_path / "m.onnx")
    assert [(one.name, one.weights, one.nonzero, one.macs) for one in found.layers] == [
        ("w1", 128, 80, 128),
        ("w2", 64, 64, 64),
    ]
    assert found.totals == {
        "parameters": 128 + 16 + 64 + 160,
        "prunable": 192,
        "macs": 192,
        "peak_activation_bytes": 3 * 4 * 16,
        "peak_node": found.peak.node,
    }
    assert found.peak == Peak(3 * 4 * 16, str(canonicalize(ir.from_proto(proto)).graph.node(2).name))
    assert [(one.op_type, one.reason) for one in found.frozen] == [("Gather", "lookup tables are not pruned")]
    keys = {"schema", "model", "layers", "frozen", "groups", "frozen_channels"}
    assert set(found.to_json()) == keys | set(found.totals)
    assert [(one.channels, set(one.tensors), one.macs) for one in found.groups] == [
        (16, {("w1", 1), ("b1", 0), ("table", 1), ("w2", 0)}, 180)
    ]
    assert {(one.op_type, one.reason) for one in found.frozen_channels} == {
        ("Gather", "it is indexed at run time"),
        ("MatMul", "an output of the model keeps its shape"),
    }
    size = figures(ir.from_proto(proto), tmp_path / "m.onnx", 0.5, RunCost(192, Peak(96, "s"), {}))
    assert (size.parameters, size.nonzero, size.macs, size.accuracy) == (368, 320, 192, 0.5)
    assert size.peak_activation_bytes == 96
    assert size.file_bytes == (tmp_path / "m.onnx").stat().st_size
    assert 0 < size.compressed_bytes < size.file_bytes
    assert figures(ir.from_proto(proto), None, None, None).file_bytes is None


def test_parameters_in_constant_nodes_count_like_initializers(make_proto) -> None:
    weight = onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32))
    proto = make_proto("g (float[N,8] x) => (float[N,8] y) { y = MatMul(x, w) }")
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["w"], value=weight))
    model = ir.from_proto(proto)
    for one in (model, canonicalize(model)):
        assert (figures(one, None, None, None).parameters, figures(one, None, None, None).nonzero) == (64, 8)
