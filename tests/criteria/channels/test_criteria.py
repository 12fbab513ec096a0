"""Criteria against formulas written out in NumPy, on activations computed here."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_helpers import named, opened, tensors_of
from nets import run_proto
from scipy.special import logsumexp

from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.passes.channels.coupling import Coupling
from obs_onnx.passes.channels.silence import silence

STATISTICS = {
    "mean": lambda x: np.abs(x.mean(0)),
    "std": lambda x: x.std(0),
    "apoz": lambda x: (x != 0).mean(0),
}


def with_outputs(model: ir.Model, *names: str) -> onnx.ModelProto:
    proto = ir.to_proto(model)
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return proto


def rows(x: np.ndarray) -> np.ndarray:
    """Positions by channels, of images."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]).astype(np.float64)


@pytest.fixture(scope="module")
def perceptron() -> tuple[ChannelStatistics, Coupling, np.ndarray]:
    x = nets.data(0, 150, 12)
    _, coupling, _, evidence = opened(nets.mlp(), x)
    return evidence, coupling, x


class TestMagnitude:
    def test_all_that_goes_with_a_hidden_unit(self, perceptron) -> None:
        evidence, coupling, _ = perceptron
        w = tensors_of(evidence.model)
        parts = (w["fc1.weight"].T, w["fc1.bias"][None], w["fc2.weight"])
        group = named(coupling, "fc1.weight[0]")
        l1 = sum(np.abs(part.astype(np.float64)).sum(0) for part in parts)
        l2 = np.sqrt(sum((part.astype(np.float64) ** 2).sum(0) for part in parts))
        np.testing.assert_allclose(CRITERIA["l1"](evidence, group), l1, rtol=1e-6)
        for name in ("l2", "magnitude"):
            np.testing.assert_allclose(CRITERIA[name](evidence, group), l2, rtol=1e-6)

    def test_channels_of_every_group_of_a_convolution(self) -> None:
        """A channel of the grouped convolution stands in each of its four groups."""
        _, coupling, _, evidence = opened(nets.grouped(), nets.data(0, 20, 3, 6, 6))
        w = tensors_of(evidence.model)
        width = next(g for g in coupling.groups if g.name == "cardinal.weight[0]")
        assert width.n == 6
        expected = (w["cardinal.weight"].reshape(4, 6, -1) ** 2).sum((0, 2))
        expected += (w["cardinal.bias"].reshape(4, 6) ** 2).sum(0)
        expected += (w["expand.weight"].reshape(16, 4, 6) ** 2).sum((0, 1))
        np.testing.assert_allclose(CRITERIA["l2"](evidence, width) ** 2, expected, rtol=1e-5)


class TestActivations:
    @pytest.mark.parametrize("name", STATISTICS)
    def test_hidden_units(self, perceptron, name: str) -> None:
        evidence, coupling, x = perceptron
        seen = run_proto(with_outputs(evidence.model, "h1", "h2"), {"x": x})
        for value, key in (("h1", "fc1.weight[0]"), ("h2", "fc2.weight[0]")):
            expected = STATISTICS[name](seen[value].astype(np.float64))
            found = CRITERIA[name](evidence, named(coupling, key))
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("name", STATISTICS)
    def test_a_channel_that_several_layers_read(self, name: str) -> None:
        """The mean over the inputs of the two convolutions and the head that read the trunk."""
        x = nets.data(0, 60, 3, 8, 8)
        _, coupling, _, evidence = opened(nets.residual(), x)
        group = named(coupling, "stem.weight[0]")
        readers = {one.layer.name: one.layer.uses[0].x for one in evidence.consumers(group)}
        assert set(readers) == {"a1.weight", "b1.weight", "skip.weight"}
        inputs = sorted(set(readers.values()))
        assert len(inputs) == 2
        seen = run_proto(with_outputs(evidence.model, *inputs), {"x": x})
        expected = np.mean([STATISTICS[name](rows(seen[value])) for value in inputs], axis=0)
        np.testing.assert_allclose(CRITERIA[name](evidence, group), expected, rtol=1e-4, atol=1e-7)

    def test_groups_that_no_layer_reads_go_by_their_weights(self) -> None:
        """Keys and queries meet each other before any layer reads them."""
        _, coupling, _, evidence = opened(nets.transformer(), nets.data(0, 30, 6, 10))
        unread = [group for group in coupling.groups if not evidence.consumers(group)]
        assert unread
        for group in unread:
            for name in ("obs", *STATISTICS):
                np.testing.assert_array_equal(
                    CRITERIA[name](evidence, group), CRITERIA["l2"](evidence, group)
                )


class TestMutualInformation:
    @pytest.fixture
    def case(self, make_proto) -> tuple[ChannelStatistics, Coupling]:
        """Hidden units: the class itself, a constant, something independent, half of the class."""
        proto = make_proto(
            "g (float[N,4] x) => (float[N,2] y) { a = Gemm(x, w, b) h = Relu(a) y = Gemm(h, v, c) }",
            {
                "w": np.eye(4, dtype=np.float32),
                "b": np.full(4, 9, np.float32),
                "v": np.array([[1, -1], [0, 0], [0, 0], [0, 0]], np.float32),
                "c": np.array([-9, 9], np.float32),
            },
        )
        sign = np.repeat([-1.0, 1.0], 64)
        independent = np.tile(np.arange(8.0), 16)
        half = np.where(np.tile(np.arange(64) < 32, 2), 0.0, sign)
        x = np.stack([sign, np.zeros(128), independent, half], axis=1).astype(np.float32)
        _, coupling, _, evidence = opened(proto, x[np.random.default_rng(0).permutation(128)])
        return evidence, coupling

    def test_known_values(self, case) -> None:
        evidence, coupling = case
        (group,) = coupling.groups
        np.testing.assert_allclose(
            CRITERIA["mutual-information"](evidence, group), [np.log(2), 0, 0, np.log(2) / 2], atol=1e-9
        )

    def test_without_classes_it_is_the_deviation(self, make_proto) -> None:
        proto = make_proto(
            "g (float[N,4] x) => (float[N,1,3] y)"
            "{ a = MatMul(x, w) h = Relu(a) s = MatMul(h, v) y = Unsqueeze(s, axis) }",
            {
                "w": np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32),
                "v": np.ones((8, 3), np.float32),
                "axis": np.array([1]),
            },
        )
        _, coupling, _, evidence = opened(proto, nets.data(0, 50, 4))
        (group,) = coupling.groups
        assert evidence.classes is None
        found = CRITERIA["mutual-information"](evidence, group)
        np.testing.assert_array_equal(found, CRITERIA["std"](evidence, group))


class TestSurgeon:
    def test_one_removal_costs_what_the_refit_costs(self, make_proto) -> None:
        """The first channel to go, and its loss, are those of the cheapest refit over all readers."""
        rng = np.random.default_rng(0)
        proto = make_proto(
            "g (float[N,6] x) => (float[N,3] y, float[N,2] z)"
            "{ a = Gemm(x, w, b) h = Tanh(a) y = Gemm(h, v, c) z = MatMul(h, u) }",
            {
                "w": rng.normal(size=(6, 5)).astype(np.float32),
                "b": rng.normal(size=5).astype(np.float32),
                "v": rng.normal(size=(5, 3)).astype(np.float32),
                "c": rng.normal(size=3).astype(np.float32),
                "u": rng.normal(size=(5, 2)).astype(np.float32),
            },
        )
        x = nets.data(0, 200, 6)
        _, coupling, _, evidence = opened(proto, x, damping=0.0)
        (group,) = coupling.groups
        h = run_proto(with_outputs(evidence.model, "h"), {"x": x})["h"].astype(np.float64)
        w = tensors_of(evidence.model)
        losses = []
        for channel in range(5):
            loss = 0.0
            for weight, inputs in ((w["v"], h - h.mean(0)), (w["u"], h)):  # with and without a bias
                t, kept = inputs @ weight, np.delete(inputs, channel, axis=1)
                loss += np.sum((t - kept @ np.linalg.lstsq(kept, t, rcond=None)[0]) ** 2)
            losses.append(loss)
        scores = CRITERIA["obs"](evidence, group)
        assert scores.argmin() == np.argmin(losses)
        assert scores.min() == pytest.approx(min(losses), rel=1e-4)
        assert len(set(scores)) == 5


def test_random_depends_on_seed_and_group_alone(perceptron) -> None:
    evidence, coupling, _ = perceptron
    one, two = coupling.groups
    first = CRITERIA["random"](evidence, one)
    np.testing.assert_array_equal(first, CRITERIA["random"](evidence, one))
    assert not np.array_equal(first[: two.n], CRITERIA["random"](evidence, two))


def test_the_oracle_without_a_damage_is_the_change_of_the_loss(perceptron) -> None:
    """Cross-entropy with the classes that the model itself names, each channel silenced in turn."""
    evidence, coupling, x = perceptron
    group, answer = coupling.groups[0], next(iter(run_proto(ir.to_proto(evidence.model), {"x": x}).values()))

    def loss(scores: np.ndarray) -> float:
        scores = scores.astype(np.float64)
        named_class = scores[np.arange(len(scores)), answer.argmax(1)]
        return float(np.mean(logsumexp(scores, axis=1) - named_class))

    changes = []
    for channel in range(group.n):
        silenced = silence(evidence.model, {group.id: np.arange(group.n) != channel}, coupling)
        scores = next(iter(run_proto(ir.to_proto(silenced), {"x": x}).values()))
        changes.append(abs(loss(scores) - loss(answer)))
    np.testing.assert_allclose(CRITERIA["oracle"](evidence, group), changes, rtol=1e-3, atol=1e-6)
