"""Derivatives by gates against finite differences and removal, in float64."""

from __future__ import annotations

import nets
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import quantized_graphs
from channel_helpers import entropy, named, opened, shape_of, tensors_of
from nets import run_proto
from product_chain import chain, doubles, logits

from obs_onnx import prune, score
from obs_onnx.criteria.channels import CRITERIA
from obs_onnx.criteria.weight_derivatives import KINDS
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import GradientError, OptionError


class TestGates:
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

    def test_channels_that_nothing_sums_have_no_gate(self, make_proto) -> None:
        """Two learnt features that are cut off again: their removal changes nothing."""
        text = """g (float[N,5] x) => (float[N,4] y) {
            h = MatMul(x, a)  t = Add(h, learnt)  c = Concat <axis = 1> (t, u)  d = Slice(c, zero, three, one)
            y = MatMul(d, w)  s = Shape(x)  n = Slice(s, zero, one)
            e = Concat <axis = 0> (n, four)  u = Expand(extra, e)
        }"""
        shapes = {"a": (5, 3), "learnt": (1, 3), "extra": (1, 4), "w": (3, 4)}
        weights = {name: nets.data(1, *shape) for name, shape in shapes.items()}
        numbers = {"zero": np.array([0]), "one": np.array([1]), "three": np.array([3]), "four": np.array([4])}
        proto = make_proto(text, {**weights, **numbers})
        nodes = {node.output[0]: node for node in proto.graph.node}
        del proto.graph.node[:]
        proto.graph.node.extend(nodes[name] for name in ("s", "n", "e", "u", "h", "t", "c", "d", "y"))
        _, coupling, _, evidence = opened(proto, nets.data(0, 20, 5), batch=12)
        group = next(one for one in coupling.groups if ("extra", 1) in one.sites)
        assert not evidence.gates.sees(group)
        np.testing.assert_allclose(evidence.gates.removals()[group.id], 0, atol=1e-7)

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


@pytest.mark.parametrize("form", ["QDQ s8s8", "QOperator u8s8"])
def test_gradients_see_through_the_rounding(form, tmp_path):
    """Channels of a network in integers matter as those of the network of numbers do."""
    data = {"x": quantized_graphs.images(0, 64)}
    given = quantized_graphs.FORMATS[form](quantized_graphs.random_net(0), tmp_path, 0)
    shares = []
    for model in (quantized_graphs.random_net(0), given):
        found = score(model, calib=data, criterion="taylor").to_json()["groups"]
        parts = [np.array(group["scores"]) / np.sum(group["scores"]) for group in found]
        shares.append(sorted(parts, key=np.max))  # groups of pairs have other names and another order
    for float_, integers in zip(*shares, strict=True):
        np.testing.assert_allclose(integers, float_, atol=0.02)
