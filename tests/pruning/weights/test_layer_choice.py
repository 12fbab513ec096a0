"""Which layers take part, what the targets mean, what inspect and the figures say."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
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

    def test_a_name_with_brackets_means_its_own_layer(self, make_model) -> None:
        """As a pattern it would be another one."""
        names = ["h[0].w", "h0.w"]
        model = make_model(
            'g (float[N,4] x) => (float[N,4] y) { h = MatMul(x, "h[0].w") y = MatMul(h, "h0.w") }',
            dict.fromkeys(names, np.ones((4, 4), np.float32)),
        )
        layers = find_layers(canonicalize(model))[0]
        choice = choose_layers(layers, ["h[0].w"], parse_pattern(None))
        assert self.split(choice) == (["h0.w"], [], ["h[0].w"])
        assert layer_sparsities(layers, {"h[0].w": 0.5}) == {"h[0].w": 0.5}

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
