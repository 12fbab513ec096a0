"""Gradient criteria against finite differences, written-out derivatives and removal, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_helpers import entropy, named, opened, shape_of, tensors_of
from nets import run_proto

from obs_onnx import prune
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.criteria.reference_loss import LabelledBatches, ReferenceLoss
from obs_onnx.criteria.weight_derivatives import KINDS, WeightDerivatives, WeightScores
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import GradientError, OptionError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.runtimes import open_runtime

SHAPES = {"w1": (7, 6), "w2": (6, 5), "w3": (5, 4)}
Weights = Mapping[str, np.ndarray]


def chain(make_proto: Callable[..., onnx.ModelProto], f: str = "Tanh", output: str = "") -> onnx.ModelProto:
    """Three products with ``f`` between them, no biases; ``output`` is an operator behind the last one."""
    rng = np.random.default_rng(3)
    tail = f"z = MatMul(h2, w3) y = {output} (z)" if output else "y = MatMul(h2, w3)"
    return make_proto(
        f"g (float[N,7] x) => (float[N,4] y)"
        f"{{ a = MatMul(x, w1) h1 = {f}(a) b = MatMul(h1, w2) h2 = {f}(b) {tail} }}",
        {name: (rng.normal(size=shape) * 0.8).astype(np.float32) for name, shape in SHAPES.items()},
    )


def logits(w: Weights, x: np.ndarray, gates: np.ndarray | float = 1.0, f: Callable = np.tanh) -> np.ndarray:
    """Of the chain, with gates behind the first hidden layer."""
    return f(gates * f(x @ w["w1"]) @ w["w2"]) @ w["w3"]


def doubles(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t).astype(np.float64) for t in proto.graph.initializer}


def gradient(loss: Callable[[Weights], float], w: Weights, step: float = 1e-5) -> dict[str, np.ndarray]:
    """By central differences."""
    found = {}
    for name, array in w.items():
        g = np.zeros(array.shape)
        for place in np.ndindex(array.shape):
            d = np.zeros(array.shape)
            d[place] = step
            g[place] = (loss({**w, name: array + d}) - loss({**w, name: array - d})) / (2 * step)
        found[name] = g
    return found


class TestGates:
    @pytest.fixture
    def case(self, make_proto):
        """First and second derivatives of every example by finite differences."""
        proto, x = chain(make_proto), nets.data(0, 70, 7)
        w, x64 = doubles(proto), x.astype(np.float64)
        labels = logits(w, x64).argmax(1)
        one, step = np.ones(6), 1e-3

        def at(gates: np.ndarray) -> np.ndarray:
            return entropy(logits(w, x64, gates), labels)

        g, h = [], []
        for unit in np.eye(6) * step:
            low, middle, high = at(one - unit), at(one), at(one + unit)
            g.append((high - low) / (2 * step))
            h.append((high - 2 * middle + low) / step**2)
        _, coupling, _, evidence = opened(proto, x, batch=32)
        return evidence, named(coupling, "w1[1]"), np.array(g), np.array(h)

    def test_first_order(self, case) -> None:
        evidence, group, g, _ = case
        np.testing.assert_allclose(CRITERIA["taylor"](evidence, group), np.abs(g).mean(1), rtol=1e-4)

    def test_second_order(self, case) -> None:
        evidence, group, g, h = case
        expected = np.abs(-g.mean(1) + h.mean(1) / 2)
        np.testing.assert_allclose(CRITERIA["gates"](evidence, group), expected, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(
            CRITERIA["obd"](evidence, group), np.abs(h.mean(1)) / 2, rtol=1e-3, atol=1e-6
        )

    def test_fisher_is_the_expectation_over_the_models_own_classes(self, make_proto) -> None:
        """Every class counts with its probability."""
        proto, few = chain(make_proto), nets.data(0, 3, 7)
        w, x64 = doubles(proto), few.astype(np.float64)
        p = np.exp(logits(w, x64))
        p /= p.sum(1, keepdims=True)
        expected, step = np.zeros(6), 1e-5
        for label in range(4):
            labels = np.full(3, label)
            for k, unit in enumerate(np.eye(6) * step):
                high, low = (entropy(logits(w, x64, 1 + sign * unit), labels) for sign in (1, -1))
                expected[k] += np.mean(p[:, label] * ((high - low) / (2 * step)) ** 2) / 2
        _, coupling, _, evidence = opened(proto, few)
        found = CRITERIA["fisher"](evidence, named(coupling, "w1[1]"))
        np.testing.assert_allclose(found, expected, rtol=1e-3)

    @pytest.mark.parametrize("name", ["residual", "concatenated", "grouped", "mobile", "transformer"])
    def test_examples_together_and_one_by_one_agree(self, name: str) -> None:
        """Gates for each example, and one gate for batches of one example."""
        proto = nets.NETS[name]()
        x = nets.data(0, 4, *shape_of(proto))
        _, coupling, _, together = opened(proto, x, batch=4)
        fixed = onnx.ModelProto.FromString(proto.SerializeToString())
        for value in (*fixed.graph.input, *fixed.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        _, other, _, alone = opened(fixed, x, batch=1)
        for a, b in zip(coupling.groups, other.groups, strict=True):
            np.testing.assert_allclose(
                CRITERIA["taylor"](together, a), CRITERIA["taylor"](alone, b), rtol=1e-3, atol=1e-6
            )

    def test_initializers_that_are_inputs_too(self) -> None:
        """Files of old IR versions list all weights among their inputs."""
        proto, x = nets.residual(), nets.data(0, 20, 3, 8, 8)
        _, coupling, _, plain = opened(proto, x)
        for tensor in proto.graph.initializer:
            proto.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
        _, other, _, listed = opened(proto, x)
        for name in ("taylor", "oba"):
            for a, b in zip(coupling.groups, other.groups, strict=True):
                np.testing.assert_allclose(
                    CRITERIA[name](plain, a), CRITERIA[name](listed, b), rtol=1e-3, atol=1e-6
                )

    @pytest.mark.parametrize("name", sorted(nets.NETS))
    def test_removals_are_those_of_the_silenced_model(self, name: str) -> None:
        proto = nets.NETS[name]()
        x = nets.data(0, 20, *shape_of(proto))
        model, coupling, _, evidence = opened(proto, x, batch=12)
        z = run_proto(ir.to_proto(model), {"x": x})["y"].astype(np.float64)
        base, labels = entropy(z, z.argmax(1)).mean(), z.argmax(1)
        found = evidence.gates.removals()
        for group in coupling.groups:
            for channel in (0, group.n - 1):
                keep = np.arange(group.n) != channel
                silent = ir.to_proto(silence(model, {group.id: keep}, coupling))
                loss = entropy(run_proto(silent, {"x": x})["y"].astype(np.float64), labels).mean()
                assert found[group.id][channel] == pytest.approx(loss - base, rel=1e-2, abs=2e-6)

    def test_regression_has_no_first_order_at_its_own_outputs(self, make_proto) -> None:
        """The Hessian is that of the squared error, and Taylor takes noisy targets."""
        proto = chain(make_proto, output="Unsqueeze")
        proto.graph.node[-1].input.append("axis")
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
        proto.graph.output[0].type.tensor_type.shape.dim.insert(
            1, onnx.TensorShapeProto.Dimension(dim_value=1)
        )
        x = nets.data(0, 40, 7)
        _, coupling, _, evidence = opened(proto, x)
        w, x64, step = doubles(proto), x.astype(np.float64), 1e-4
        dense = logits(w, x64)
        h = [np.mean((logits(w, x64, 1 + unit) - dense) ** 2) / step**2 for unit in np.eye(6) * step]
        group = named(coupling, "w1[1]")
        np.testing.assert_allclose(CRITERIA["gates"](evidence, group), h, rtol=1e-2)
        assert np.abs(evidence.gates.curvatures[group.id].gradient).max() < 1e-6
        assert CRITERIA["taylor"](evidence, group).min() > 0

    def test_an_operator_without_a_rule_is_named(self, make_proto) -> None:
        proto = chain(make_proto, f="Hardmax")
        _, coupling, _, evidence = opened(proto, nets.data(0, 20, 7))
        if coupling.groups:
            with pytest.raises(GradientError, match="Hardmax"):
                CRITERIA["taylor"](evidence, coupling.groups[0])


class TestWeights:
    @pytest.fixture
    def case(self, make_proto):
        proto, x = chain(make_proto), nets.data(0, 24, 7)
        w, x64 = doubles(proto), x.astype(np.float64)
        labels = logits(w, x64).argmax(1)
        return self.sensitivities(proto, x), w, x64, labels

    def sensitivities(self, proto: onnx.ModelProto, x: np.ndarray) -> WeightDerivatives:
        lessons = LabelledBatches(open_runtime("onnxruntime", 1), prepare(ir.from_proto(proto)), [{"x": x}])
        return WeightDerivatives(lessons, list(SHAPES))

    def terms(self, found: WeightDerivatives, kind: str) -> dict[str, np.ndarray]:
        _, terms = next(iter(found.terms(kind)))
        assert set(terms) == set(SHAPES)
        return dict(terms)

    def test_first_order(self, case) -> None:
        found, w, x, labels = case
        g = gradient(lambda v: entropy(logits(v, x), labels).mean(), w)
        taylor, fisher = self.terms(found, "taylor"), self.terms(found, "fisher")
        for name in SHAPES:
            np.testing.assert_allclose(taylor[name], g[name] * w[name], rtol=1e-3, atol=1e-6)
            assert fisher[name].shape == w[name].shape
            assert fisher[name].min() >= 0

    def test_exact_hessian_vector_product(self, case) -> None:
        found, w, x, labels = case
        step = 1e-4

        def loss(v: Weights) -> float:
            return float(entropy(logits(v, x), labels).mean())

        high, low = (gradient(loss, {n: a * (1 + s) for n, a in w.items()}) for s in (step, -step))
        g, both, second = gradient(loss, w), self.terms(found, "oba"), self.terms(found, "oba-second")
        for name, array in w.items():
            half = array * (high[name] - low[name]) / (2 * step) / 2
            np.testing.assert_allclose(second[name], half, rtol=2e-3, atol=2e-6)
            np.testing.assert_allclose(both[name], half - g[name] * array, rtol=2e-3, atol=2e-6)

    def test_the_papers_form_lacks_the_gauss_newton_part(self, case) -> None:
        """H w - H' w = J^T (d2L/dz2) J w."""
        found, w, x, _ = case
        step = 1e-5
        second, paper = self.terms(found, "oba-second"), self.terms(found, "oba-paper")
        z = logits(w, x)
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        high, low = (logits({n: a * (1 + s) for n, a in w.items()}, x) for s in (step, -step))
        jw = (high - low) / (2 * step)
        curved = p * (jw - (p * jw).sum(1, keepdims=True)) / len(x)
        newton = gradient(lambda v: float((logits(v, x) * curved).sum()), w)
        for name, array in w.items():
            np.testing.assert_allclose(
                2 * second[name] - paper[name], array * newton[name], rtol=2e-3, atol=2e-6
            )

    def test_the_papers_form_is_taylor_on_chains_of_relu(self, make_proto) -> None:
        found = self.sensitivities(chain(make_proto, "Relu"), nets.data(0, 24, 7))
        paper, taylor = self.terms(found, "oba-paper"), self.terms(found, "taylor")
        for name in SHAPES:
            np.testing.assert_allclose(paper[name], 2 * taylor[name], rtol=1e-3, atol=1e-6)

    def test_channels_sum_with_signs_what_goes_with_them(self, make_proto) -> None:
        proto, x = chain(make_proto), nets.data(0, 24, 7)
        _, coupling, _, evidence = opened(proto, x)
        for kind in ("oba", "oba-second", "oba-paper"):
            terms = self.terms(self.sensitivities(proto, x), kind)
            expected = np.abs(terms["w1"].sum(0) + terms["w2"].sum(1))
            found = CRITERIA[kind](evidence, named(coupling, "w1[1]"))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)

    def test_the_diagonal_is_estimated_without_bias(self, make_proto) -> None:
        """Signs average out over many batches of the same data."""
        proto, x = chain(make_proto), nets.data(0, 8, 7)
        w, x64 = doubles(proto), x.astype(np.float64)
        labels = logits(w, x64).argmax(1)
        lessons = LabelledBatches(
            open_runtime("onnxruntime", 1), prepare(ir.from_proto(proto)), [{"x": x}] * 600
        )
        found = WeightDerivatives(lessons, list(SHAPES)).mean_absolute("obd")
        step, exact, error = 1e-3, [], []
        for place in np.ndindex(w["w3"].shape):
            d = np.zeros(w["w3"].shape)
            d[place] = step
            high, low = (entropy(logits({**w, "w3": w["w3"] + s * d}, x64), labels).mean() for s in (1, -1))
            h = (high - 2 * entropy(logits(w, x64), labels).mean() + low) / step**2
            exact.append(abs(h) * w["w3"][place] ** 2 / 2)
            error.append(found["w3"][place] - exact[-1])
        assert np.linalg.norm(error) < 0.2 * np.linalg.norm(exact)


class TestPruning:
    @pytest.mark.parametrize("kind", KINDS)
    def test_weights_of_least_score_go(self, kind: str) -> None:
        x = nets.data(0, 160, 12)
        result = prune(
            ir.from_proto(nets.mlp()),
            calib={"x": x},
            mode="weights",
            criterion=kind,
            targets={"sparsity": 0.6},
            effort="quick",
            latency=False,
        )
        zeros = [np.mean(w == 0) for n, w in tensors_of(result.model).items() if n.endswith("weight")]
        assert result.report.met
        assert max(zeros) > 0.5

    def test_scores_are_in_the_layers_form(self) -> None:
        model = prepare(ir.from_proto(nets.grouped()))
        lessons = LabelledBatches(open_runtime("onnxruntime", 1), model, [{"x": nets.data(0, 16, 3, 6, 6)}])
        layers = find_layers(model)[0]
        sensitivities = WeightDerivatives(lessons, [layer.name for layer in layers])
        scores, plain = WeightScores(sensitivities, "taylor"), sensitivities.mean_absolute("taylor")
        for layer in layers:
            np.testing.assert_allclose(layer.layout.to_tensor(scores(layer)), plain[layer.name], rtol=1e-9)

    @pytest.mark.parametrize("criterion", ["taylor", "gates", "oba"])
    def test_channels(self, criterion: str) -> None:
        result = prune(
            ir.from_proto(nets.mlp()),
            calib={"x": nets.data(0, 160, 12)},
            criterion=criterion,
            targets={"macs": 0.6},
            effort="quick",
            latency=False,
        )
        assert result.report.met

    def test_gates_do_not_rank_weights(self) -> None:
        with pytest.raises(OptionError, match="does not rank weights"):
            prune(
                ir.from_proto(nets.mlp()),
                calib={"x": nets.data(0, 16, 12)},
                mode="weights",
                criterion="gates",
            )


class TestTeacher:
    def test_probabilities_are_taken_as_such(self) -> None:
        z = np.random.default_rng(0).normal(size=(5, 3))
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        labels = np.array([0, 1, 2, 0, 1])
        scores, shares = ReferenceLoss.of({"y": z}), ReferenceLoss.of({"y": p})
        assert (scores.probabilities, shares.probabilities) == (False, True)
        assert shares.loss(p, labels) == pytest.approx(entropy(z, labels).mean())
        assert scores.loss(z, labels) == pytest.approx(entropy(z, labels).mean())

    def test_models_that_end_in_softmax_have_the_same_derivatives(self, make_proto) -> None:
        x = nets.data(0, 30, 7)
        found = []
        for output in ("Identity", "Softmax"):
            _, coupling, _, evidence = opened(chain(make_proto, output=output), x)
            found.append(CRITERIA["taylor"](evidence, named(coupling, "w1[1]")))
        np.testing.assert_allclose(found[0], found[1], rtol=1e-3)

    def test_a_model_without_numbers_to_differentiate(self) -> None:
        with pytest.raises(GradientError, match="float type"):
            ReferenceLoss.of({"y": np.arange(3)})
