"""Channel pruning of awkward models: odd outputs, sizes that follow from the data, bounded measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from obs_onnx import prune
from obs_onnx.criteria.channel_statistics import ChannelStatistics
from obs_onnx.evaluation.measures.output_damage import Damage
from obs_onnx.evaluation.measures.yardstick import yardstick_of
from obs_onnx.evaluation.quality import Tally
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.keep_file import keep_file, replay
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import DataError, ModelError, VerificationError
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.stages import plan_stages
from obs_onnx.pruning.effort import EFFORTS
from obs_onnx.reconstruction.channel_curves import compensated
from obs_onnx.results.pruning import Report
from obs_onnx.runtimes import open_runtime
from obs_onnx.verification.removal import check_removal
from obs_onnx.verification.written_model import check_batches

HEAD = '<ir_version: 8, opset_import: ["" : 17, "ai.onnx.ml": 3]>\n'
BODY = """g ({inputs}) => ({outputs}) {{
    c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads=[1,1,1,1]>(r1, w2, b2)
    {middle}
    p = GlobalAveragePool(s)
    q = Flatten(p)
    y = Gemm<transB=1>(q, w3, b3)
    {end}
}}"""
IMAGE = "float[N,3,8,8] x"


def weights(dtype: type = np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (32, 3, 3, 3),
        "b1": (32,),
        "w2": (32, 32, 3, 3),
        "b2": (32,),
        "w3": (10, 32),
        "b3": (10,),
    }
    return {
        name: (rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5).astype(dtype)
        for name, shape in shapes.items()
    }


def net(
    middle: str = "s = Relu(c2)",
    outputs: str = "float[N,10] y",
    end: str = "",
    inputs: str = IMAGE,
    **extra: np.ndarray,
) -> onnx.ModelProto:
    text = BODY.format(inputs=inputs, outputs=outputs, middle=middle, end=end)
    return with_weights(text, {**weights(), **extra})


def with_weights(text: str, tensors: dict[str, np.ndarray]) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(HEAD + text)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), k) for k, a in tensors.items())
    return proto


def images(count: int = 24) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)}


def run(model: ir.Model | onnx.ModelProto, feed: dict[str, np.ndarray]) -> list[object]:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def halved(proto: onnx.ModelProto, calib: object, **options: object) -> tuple[ir.Model, Report]:
    """The model pruned to half its multiply-accumulates; it passes the checker and runs."""
    settings = {"criterion": "magnitude", "compensate": False, "targets": {"macs": 0.5}, **options}
    result = prune(proto, calib=calib, latency=False, threads=1, **settings)
    onnx.checker.check_model(ir.to_proto(result.model), full_check=True)
    assert result.report.met
    assert result.report.after.macs <= 0.5 * result.report.before.macs
    return result.model, result.report


LABELS = "keys_int64s=[0,1,2,3,4,5,6,7,8,9], values_strings=[" + ",".join(f'"c{i}"' for i in range(10)) + "]"
CLASS = "k = ArgMax<axis=1, keepdims=0>(y)\n"
AWKWARD = {
    "noise": net("n = RandomNormalLike<scale=1.0>(c2)\n d = Add(c2, n)\n s = Relu(d)"),
    "noisy classes": net(
        outputs="int64[N] k",
        end="e = RandomNormalLike(y)\n z = Add(y, e)\n k = ArgMax<axis=1, keepdims=0>(z)",
    ),
    "classes": net(outputs="int64[N] k", end=CLASS),
    "strings": net(outputs="string[N] z", end=CLASS + f"z = ai.onnx.ml.LabelEncoder<{LABELS}>(k)"),
    "sequence": net(outputs="seq(float[N,5]) z", end="z = SplitToSequence<axis=1>(y, n)", n=np.array(5)),
    "tensor and sequence": net(
        outputs="float[N,10] y, seq(float[N,5]) z", end="z = SplitToSequence<axis=1>(y, n)", n=np.array(5)
    ),
    "sequence inside": net(
        "q0 = SplitToSequence<axis=1>(c2, n)\n q1 = SequenceAt(q0, i)\n s = Concat<axis=1>(q1, q1)",
        n=np.array(16),
        i=np.array(0),
    ),
    "optional inside": net("o = Optional(c2)\n e = OptionalGetElement(o)\n s = Relu(e)"),
    "positions": net(outputs="int64[2,K] z", end="h = Relu(y)\n z = NonZero(h)"),
    "as many as positive": net(
        outputs="float[K] z",
        end="h = Greater(y, o)\n f = Reshape(y, m)\n i = Reshape(h, m)\n z = Compress(f, i)",
        o=np.float32(0),
        m=np.array([-1]),
    ),
    "distinct": net(
        outputs="float[K] z", end="f = Reshape(y, m)\n i = Round(f)\n z = Unique(i)", m=np.array([-1])
    ),
    "constant beside": net(outputs="float[N,10] y, float[10] b3"),
    "input beside": net(outputs="float[N,10] y, float[N,3,8,8] x"),
    "all zero": with_weights(
        BODY.format(inputs=IMAGE, outputs="float[N,10] y", middle="s = Relu(c2)", end=""),
        {name: np.zeros_like(array) for name, array in weights().items()},
    ),
    "body": net(
        """m = ReduceMean<keepdims=0>(c2)
        c = Greater(m, o)
        s = If(c) <then_branch = t () => (float[N,32,8,8] a) { a = Relu(c2) },
                   else_branch = e () => (float[N,32,8,8] b) { b = Sigmoid(c2) }>""",
        o=np.float32(0),
    ),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_models_are_halved(name: str) -> None:
    model, _ = halved(AWKWARD[name], images())
    assert len(run(model, images(3))) == len(AWKWARD[name].graph.output)


@pytest.mark.parametrize("name", ["noise", "sequence", "as many as positive", "strings"])
def test_awkward_models_are_halved_by_default(name: str) -> None:
    halved(AWKWARD[name], images(), criterion="auto", compensate=True, effort="quick")


@pytest.mark.parametrize(
    ("middle", "operator"),
    [("l = Log(c2)\n s = Relu(l)", "Log"), ("e = Exp(c2)\n f = Exp(e)\n h = Exp(f)\n s = Relu(h)", "Gemm")],
)
@pytest.mark.parametrize("compensate", [False, True])
def test_outputs_must_be_numbers(middle: str, operator: str, compensate: bool) -> None:
    with pytest.raises(ModelError, match=rf"gives NaN .* is '{operator}' \({operator}\)"):
        halved(net(middle), images(), criterion="auto", compensate=compensate)


def test_a_scalar_input() -> None:
    proto = net("d = Mul(c2, a)\n s = Relu(d)", inputs=f"{IMAGE}, float a")
    feeds = [{**images(4), "a": np.float32(1 + i / 10)} for i in range(10)]
    model, _ = halved(proto, feeds)
    assert np.shape(run(model, {**images(2), "a": np.array(1, np.float32)})[0]) == (2, 10)


def test_inputs_of_different_first_axes() -> None:
    rng = np.random.default_rng(0)
    text = """g (float[N,16] x, float[M,16] k) => (float[N,M] y) {
        a = MatMul(x, w1)
        b = MatMul(k, w2)
        t = Transpose<perm=[1,0]>(b)
        y = MatMul(a, t)
    }"""
    tensors = {name: rng.standard_normal((16, 32)).astype(np.float32) for name in ("w1", "w2")}
    feeds = [
        {
            name: rng.standard_normal((rows, 16)).astype(np.float32)
            for name, rows in (("x", 4), ("k", 3 + i % 3))
        }
        for i in range(10)
    ]
    model, _ = halved(with_weights(text, tensors), feeds)
    assert np.shape(run(model, feeds[1])[0]) == (4, 4)


def test_what_removal_adds_counts_against_the_target() -> None:
    """A response normalisation over channels that went becomes a convolution."""
    model, report = halved(net("s = LRN<size=5>(c2)"), images())
    assert report.after.macs <= 0.5 * report.before.macs
    assert any(node.op_type == "Conv" and "LRN" not in str(node.name) for node in model.graph)


def test_magnitude_without_compensation_needs_no_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: ChannelStatistics) -> None:
        raise AssertionError("moments were gathered")

    monkeypatch.setattr(ChannelStatistics, "moments", property(never))
    halved(net(), images())


def test_weights_without_compensation_lose_columns_only() -> None:
    proto = net()
    model = prepare(ir.from_proto(proto))
    coupling, layers = couple(model), find_layers(model)[0]
    runtime = open_runtime(threads=1)
    plan = plan_stages(model, layers)
    evidence = ChannelStatistics(
        runtime, model, coupling, layers, plan, [images()], budget=2**30, damping=0.01
    )
    group = next(g for g in coupling.groups if any(site.initializer == "w1" for site in g.sites))
    keep = np.arange(group.n) % 2 == 0
    found = compensated(evidence, evidence.consumers(group), [keep], False)[0]
    assert set(found) == {"w2"}
    np.testing.assert_array_equal(found["w2"], weights()["w2"] * keep[None, :, None, None])


def test_silencing_with_the_coupling_at_hand() -> None:
    model = prepare(ir.from_proto(net("s = LRN<size=3>(c2)")))
    coupling = couple(model)
    keep = {group.id: np.arange(group.n) % 3 > 0 for group in coupling.groups}
    ours, theirs = silence(model, keep, coupling), silence(model, keep)
    assert ir.to_proto(ours).SerializeToString() == ir.to_proto(theirs).SerializeToString()
    with pytest.raises(ValueError, match="another model"):
        silence(model.clone(), keep, coupling)


def test_shapes_of_weights_do_not_take_their_names() -> None:
    """Exporters ask a kernel for its shape to make a bias of zeros."""
    proto = net()
    node = next(node for node in proto.graph.node if node.output[0] == "c1")
    node.input[2] = "zeros"
    extra = onnx.parser.parse_model(
        HEAD
        + """h (float[N,3,8,8] x) => (float[32] zeros) {
        d = Shape<start=0, end=1>(w1)
        zeros = Expand(o, d)
    }"""
    ).graph.node
    for made in reversed(extra):
        proto.graph.node.insert(0, made)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(0), "o"))
    model = prepare(ir.from_proto(proto))
    coupling = couple(model)
    keep = {group.id: np.arange(group.n) % 2 == 0 for group in coupling.groups}
    small = model.clone()
    RemoveChannels(keep).call(small)
    file = keep_file(ir.from_proto(proto), coupling, keep)
    assert set(file["tensors"]) == {"w1", "w2", "b2", "w3"}
    again = replay(ir.from_proto(proto), file["tensors"])
    np.testing.assert_allclose(run(again, images(2))[0], run(small, images(2))[0], rtol=0, atol=1e-5)


def test_a_wrong_selection_is_still_noticed() -> None:
    """Neither random numbers nor decisions elsewhere excuse an output that is simply wrong."""
    proto = net(
        "s = Relu(c2)", "float[N,10] y, float[N,32,8,8] n, int64[N] k", "n = RandomNormalLike(c2)\n" + CLASS
    )
    model = prepare(ir.from_proto(proto))
    coupling = couple(model)
    group = next(g for g in coupling.groups if any(site.initializer == "w1" for site in g.sites))
    mask = np.arange(group.n) < 16
    small = model.clone()
    RemoveChannels({group.id: mask}).call(small)
    runtime = open_runtime(threads=1)
    agreement = check_removal(runtime, coupling, {group.id: mask}, small, images(4))
    assert agreement.largest <= agreement.tolerance == 1e-3
    with pytest.raises(VerificationError, match="differs"):
        check_removal(runtime, coupling, {group.id: ~mask}, small, images(4))


def test_sizes_that_follow_from_the_data() -> None:
    runtime = open_runtime(threads=1)
    dense = runtime.session(AWKWARD["as many as positive"].SerializeToString())
    other = onnx.ModelProto.FromString(AWKWARD["as many as positive"].SerializeToString())
    bias = next(tensor for tensor in other.graph.initializer if tensor.name == "b3")
    bias.CopyFrom(numpy_helper.from_array(np.full(10, 100, np.float32), "b3"))
    small = runtime.session(other.SerializeToString())
    check_batches(dense, small, images(4), {"z"})
    with pytest.raises(VerificationError, match="has shape"):
        check_batches(dense, small, images(4))


@pytest.mark.parametrize(("measure", "expected"), [("error", 1.0), ("changed", 1.0), ("kl", np.log(3))])
def test_damage_of_another_size_is_all_of_it(measure: str, expected: float) -> None:
    y = np.ones((4, 3), np.int64 if measure == "changed" else np.float32)
    loss = "auto" if measure == "changed" else measure
    damage = Damage(yardstick_of([{"y": y}], task="classification", loss=loss), ["y"])
    damage.update({"y": y}, {"y": y[:2]})
    assert damage.value == pytest.approx(expected)


def test_only_free_sizes_may_differ_in_an_evaluation() -> None:
    y = np.ones(4, np.float32)
    yardstick = yardstick_of([{"y": y}])
    tally = Tally(yardstick)
    tally.add({"y": y[:2]}, reference={"y": y}, free={"y"})
    assert tally.result().output_error == 1.0
    with pytest.raises(DataError, match="same outputs"):
        Tally(yardstick).add({"y": y[:2]}, reference={"y": y})


def test_measuring_is_bounded() -> None:
    for effort in EFFORTS.values():
        small = effort.bounded(10, 10**6, 50, 10**6)
        assert small == (effort.levels_for(10, 10**6), effort.samples)
        assert effort.bounded(10, 10**6, 50, 7)[1] == 7
    for name in ("quick", "normal"):
        assert EFFORTS[name].bounded(200, 5 * 10**9, 2000, 10**6) == (2, 8)
    assert EFFORTS["normal"].bounded(40, 4 * 10**9, 200, 10**6)[1] < 100


def test_sequences_and_maps_come_as_numbers(tmp_path: Path) -> None:
    session = open_runtime(threads=1).session(AWKWARD["tensor and sequence"].SerializeToString())
    outputs = session.run(images(4))
    left, right = np.split(outputs["y"], 2, axis=1)
    np.testing.assert_array_equal(outputs["z"], np.concatenate([left.ravel(), right.ravel()]))


def test_a_tie_that_turns_over_is_no_difference() -> None:
    """Products of quantized numbers lie halfway between two steps: the order of a sum decides."""
    proto = net("t = Mul(c2, f)\n i = Round(t)\n s = Relu(i)", "float[N,32,8,8] i", f=np.float32(5))
    rng = np.random.default_rng(0)
    for name, shape in (("w1", (32, 3, 3, 3)), ("b1", (32,)), ("w2", (32, 32, 3, 3)), ("b2", (32,))):
        tensor = next(tensor for tensor in proto.graph.initializer if tensor.name == name)
        steps = rng.integers(-3, 4, shape).astype(np.float32) * np.float32(0.1)
        tensor.CopyFrom(numpy_helper.from_array(steps, name))
    feed = {"x": rng.integers(-3, 4, (4, 3, 8, 8)).astype(np.float32)}
    model = prepare(ir.from_proto(proto))
    coupling = couple(model)
    group = next(g for g in coupling.groups if any(site.initializer == "w1" for site in g.sites))
    mask = np.arange(group.n) % 2 == 0
    small = model.clone()
    RemoveChannels({group.id: mask}).call(small)
    runtime = open_runtime(threads=1)
    check_removal(runtime, coupling, {group.id: mask}, small, feed)
    with pytest.raises(VerificationError, match="differs"):
        check_removal(runtime, coupling, {group.id: ~mask}, small, feed)
