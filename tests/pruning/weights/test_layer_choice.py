"""Which layers take part, what the targets mean, what inspect and the figures say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from obs_onnx import inspect
from obs_onnx.allocation.targets import Targets, parse_bytes, parse_targets
from obs_onnx.evaluation.model_figures import figures
from obs_onnx.evaluation.run_cost import RunCost
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.costs.memory import Peak
from obs_onnx.passes.errors import OptionError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.pruning.weights.layer_choice import choose_layers, layer_sparsities
from obs_onnx.solvers import parse_pattern


class TestTargets:
    def test_forms(self) -> None:
        expected = Targets(sparsity=0.9, drop=0.005)
        assert parse_targets(["sparsity=0.9", "drop = 0.5%"]) == expected
        assert parse_targets({"sparsity": 0.9, "drop": "0.5%"}) == expected
        assert parse_targets([]).as_dict() == {}
        assert expected.as_dict() == {"sparsity": 0.9, "drop": 0.005}
        costs = Targets(macs=0.5, params=0.25, error=0.02)
        assert parse_targets(["macs=50%", "params=.25", "error=2%"]) == costs

    @pytest.mark.parametrize(
        ("text", "size"),
        [("500KB", 500_000), ("4096", 4096), ("1.5 MiB", 3 << 19), ("0.5", 0.5), (".25", 0.25), ("30%", 0.3)],
    )
    def test_a_size_is_a_number_of_bytes_or_a_share(self, text: str, size: float) -> None:
        assert parse_targets({"size": text}) == Targets(size=size)
        assert parse_targets([f"ram={text}"]) == Targets(ram=size)

    @pytest.mark.parametrize(
        ("text", "limits", "shown"),
        [
            ("latency=0.5", {"latency": 0.5}, 0.5),
            ("latency=25%", {"latency": 0.25}, 0.25),
            ("latency=4ms", {"latency_ms": 4.0}, "4ms"),
            ("latency=.5 ms", {"latency_ms": 0.5}, "0.5ms"),
            ("latency=800us", {"latency_ms": 0.8}, "0.8ms"),
            ("latency=2s", {"latency_ms": 2000.0}, "2000ms"),
            ("latency=min", {"fastest": True}, "min"),
        ],
    )
    def test_a_latency_is_a_share_a_time_or_the_least(self, text: str, limits: dict, shown: object) -> None:
        found = parse_targets([text])
        assert found == Targets(**limits)
        assert found.as_dict() == {"latency": shown}
        assert found.timed
        assert not parse_targets(["macs=0.5"]).timed

    def test_the_least_latency_needs_a_bound(self) -> None:
        assert not parse_targets(["latency=min"]).bounded
        assert not parse_targets([]).bounded
        assert all(parse_targets([*more, "latency=min"]).bounded for more in (["error=0.1"], ["drop=1%"]))
        assert parse_targets(["latency=0.5"]).bounded
        for other in ("macs=0.5", "size=4KB", "ram=0.5", "params=0.5"):
            with pytest.raises(OptionError, match=r"target latency=min .* give a latency"):
                parse_targets([other, "latency=min"])

    @pytest.mark.parametrize(
        "text",
        [
            "sparsity",
            "sparsity=",
            "sparsity=x",
            "sparsity=0",
            "sparsity=1",
            "error=-0.1",
            "error=nan",
            "drop=inf",
            "drop=200%",
            "speed=2",
            "=0.5",
            "latency=4",
            "latency=1.5",
            "latency=0ms",
            "latency=fast",
            "latency=-3ms",
            "latency=0",
            "macs=0",
            "macs=2x",
            "params=1",
            "params=-10%",
            "size=200%",
            "size=0%",
            "ram=0",
            "ram=lots",
        ],
    )
    def test_nonsense(self, text: str) -> None:
        with pytest.raises(OptionError, match="target"):
            parse_targets([text])

    @pytest.mark.parametrize(
        ("text", "size"),
        [("4096", 4096), ("500KB", 500_000), ("1.5 GiB", 3 << 29), ("2g", 2 * 10**9), (".5M", 500_000)],
    )
    def test_bytes(self, text: str, size: int) -> None:
        assert parse_bytes(text) == size

    @pytest.mark.parametrize("text", ["", "much", "-5", "4 bytes", "1e3", "KB"])
    def test_no_bytes(self, text: str) -> None:
        with pytest.raises(OptionError, match="is not a size"):
            parse_bytes(text)


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
