"""Caches that change with their heads, from end to end, and the configurations that say how many they are."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from decoders import HEAD, HEADS, LAYERS, SHARED, WORDS, decoder, generated, session
from nets import Net

from obs_onnx.entrypoints.inspect import inspect
from obs_onnx.entrypoints.pareto import pareto
from obs_onnx.entrypoints.prune import prune
from obs_onnx.entrypoints.replay import replay
from obs_onnx.entrypoints.score import score
from obs_onnx.io.paths import config_destination
from obs_onnx.passes.errors import DataError, OptionError
from obs_onnx.pruning.language.cache_config import new_configs

IDS = np.arange(8).reshape(2, 4) * 5
TRAINED = Path(__file__).parents[4] / "shared" / "lm" / "genai_fp32"


def data(past=0, count=48, tokens=12):
    rng = np.random.default_rng(0)
    shape = (count, SHARED, past, HEAD)
    caches = {
        f"past_key_values.{i}.{kind}": 0.5 * rng.standard_normal(shape).astype(np.float32)
        for i in range(LAYERS)
        for kind in ("key", "value")
    }
    mask = np.ones((count, tokens + past), np.int64)
    return {"input_ids": rng.integers(0, WORDS, (count, tokens)), "attention_mask": mask, **caches}


def written(folder, config=None, name="genai_config.json"):
    folder.mkdir()
    onnx.save(decoder("packed"), folder / "model.onnx")
    if config is not None:
        (folder / name).write_text(json.dumps(config))
    return folder / "model.onnx"


def config(heads=HEADS, shared=SHARED):
    sizes = {"head_size": HEAD, "num_attention_heads": heads, "num_key_value_heads": shared}
    return {"model": {"decoder": sizes, "vocab_size": WORDS}}


@pytest.mark.parametrize(("past", "tokens"), [(0, 12), (5, 1)])
def test_heads_and_caches_go_together(tmp_path, past, tokens):
    model, out = written(tmp_path / "in", config()), tmp_path / "out"
    out.mkdir()
    given = {"calib": data(past, tokens=tokens), "effort": "quick", "seed": 0}
    found = prune(model, targets={"params": 0.55}, change_caches=True, output=out / "model.onnx", **given)
    assert found.report.met
    run = ort.InferenceSession(out / "model.onnx")
    shapes = {
        one.name: one.shape[1] for one in (*run.get_inputs(), *run.get_outputs()) if len(one.shape) == 4
    }
    assert {name: shape[1] for name, shape in found.report.caches.items()} == shapes
    assert min(shapes.values()) < SHARED
    presents = {name for name in shapes if name.startswith("present")}
    assert presents <= set(found.report.proof.differences)
    assert found.report.proof.largest < 1e-3
    assert not found.report.proof.left_out
    assert np.array_equal(generated(run, IDS, 32, True), generated(run, IDS, 32, False))
    kept = json.loads((out / "model.keep.json").read_text())["caches"]
    assert all(len(axes["1"]) == shapes[name] for name, axes in kept.items())
    layers = [node for node in found.model.graph if node.op_type == "GroupQueryAttention"]
    heads = {node.attributes["num_heads"].value for node in layers}
    same = len(set(shapes.values())) == len(heads) == 1
    assert (out / "genai_config.json").exists() == same
    assert same or any("differ from layer to layer" in alert for alert in found.report.alerts)
    assert json.loads((tmp_path / "in" / "genai_config.json").read_text()) == config()


def test_caches_stay_where_nothing_else_is_asked_for(tmp_path):
    model = written(tmp_path / "in")
    found = prune(model, targets={"params": 0.8}, calib=data(), effort="quick", seed=0)
    before, after = (session(one) for one in (onnx.load(model), ir.to_proto(found.model)))
    for one in ("get_inputs", "get_outputs"):
        assert [v.shape for v in getattr(before, one)()] == [v.shape for v in getattr(after, one)()]
    assert any("past_key_values.0.key is an input" in frozen.reason for frozen in found.report.frozen)
    assert all(frozen.reason.isprintable() for frozen in found.report.frozen)
    assert not found.report.caches


def test_a_model_without_caches_has_none_to_change():
    with pytest.raises(OptionError, match="has no cache"):
        prune(ir.from_proto(decoder("packed", cache=False)), calib=data(), change_caches=True)


def test_a_configuration_is_written_beside_the_result(tmp_path):
    path = written(tmp_path / "in", config())
    names = [f"past_key_values.{i}.key" for i in range(LAYERS)]
    model = ir.from_proto(decoder("packed"))
    (tmp_path / "in" / "config.json").write_text(json.dumps({"num_attention_heads": 9, "hidden_size": 32}))
    found, told = new_configs(model, names, path, tmp_path / "model.onnx")
    assert not told
    assert found[tmp_path / "genai_config.json"] == config()
    assert found[tmp_path / "config.json"] == {
        "num_attention_heads": HEADS,
        "hidden_size": 32,
        "head_dim": HEAD,
        "num_key_value_heads": SHARED,
    }
    beside = config_destination(path.with_name("config.json"), path.with_name("small.onnx"))
    assert beside == path.with_name("small.config.json")
    (tmp_path / "in" / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        new_configs(model, names, path, tmp_path / "model.onnx")


def test_a_configuration_cannot_say_that_layers_differ(tmp_path):
    path, model = written(tmp_path / "in", config()), ir.from_proto(decoder("packed"))
    first = next(node for node in model.graph if node.op_type == "GroupQueryAttention")
    first.attributes["num_heads"] = ir.AttrInt64("num_heads", 3)
    found, (told,) = new_configs(model, ["past_key_values.0.key", "past_key_values.1.key"], path, path)
    assert not found
    assert "genai_config.json" in told
    assert "differ from layer to layer" in told


def test_a_trained_model_of_the_builder_generates_with_fewer_heads(tmp_path):
    if not TRAINED.exists():
        pytest.skip("the trained decoder lies in ../shared/lm, which is not here")
    ids = np.load(TRAINED.parent / "lm.calib.npz")
    ids = next(array for array in ids.values() if array.dtype.kind == "i")[:24, :32].astype(np.int64)
    caches = {
        f"past_key_values.{i}.{kind}": np.zeros((24, 3, 0, 32), np.float32)
        for i in range(4)
        for kind in ("key", "value")
    }
    found = prune(
        TRAINED / "model.onnx",
        targets={"params": 0.8},
        calib={"input_ids": ids, "attention_mask": np.ones_like(ids), **caches},
        change_caches=True,
        effort="quick",
        output=tmp_path / "model.onnx",
    )
    assert found.report.met
    run = ort.InferenceSession(tmp_path / "model.onnx")
    assert np.array_equal(generated(run, ids[:1, :8], 32, True), generated(run, ids[:1, :8], 32, False))


SMALL = {"targets": {"params": 0.7}, "effort": "quick", "seed": 0, "change_caches": True, "latency": False}


def sizes(model):
    run = session(model)
    return {one.name: one.shape[1] for one in (*run.get_inputs(), *run.get_outputs()) if len(one.shape) == 4}


def test_a_replay_cuts_the_same_caches(tmp_path):
    path = written(tmp_path / "in", config())
    small = tmp_path / "small.onnx"
    found = prune(path, calib=data(), compensate=False, output=small, **SMALL)
    file = json.loads(small.with_suffix(".keep.json").read_text())
    assert file["caches"]
    again = replay(path, file, calib=data(), output=tmp_path / "again.onnx")
    assert again.notes[0].startswith("logits, present.0.key, present.0.value")
    assert "equal those of the model with the channels silenced" in again.notes[0]
    assert sizes(again.model) == sizes(found.model)
    pruned, other = (ort.InferenceSession(tmp_path / f"{name}.onnx") for name in ("small", "again"))
    assert np.array_equal(generated(pruned, IDS, 8, True), generated(other, IDS, 8, True))
    same = len(set(sizes(found.model).values())) == 1
    assert (tmp_path / "genai_config.json").exists() == same
    name, axes = next(iter(file["caches"].items()))
    wrong = {**file, "caches": {**file["caches"], name: {"1": axes["1"][:-1]}}}
    with pytest.raises(DataError, match=f"the cache {name} cannot be cut so"):
        replay(path, wrong, calib=data(), output=tmp_path / "third.onnx")
    with pytest.raises(DataError, match=r"is no keep\.json"):
        replay(path, {**file, "caches": {name: {"1": ["a"]}}}, calib=data(), output=tmp_path / "third.onnx")
    assert not (tmp_path / "third.onnx").exists()


def test_integers_of_8_bits_have_the_same_caches(tmp_path):
    path, small = written(tmp_path / "in"), tmp_path / "small.onnx"
    found = prune(path, calib=data(5, tokens=1), quantize="int8", output=small, **SMALL)
    assert not found.report.failures
    assert [one.model for one in found.report.combinations] == [
        "dense",
        "dense int8",
        "pruned",
        "pruned int8",
    ]
    plain, integers = onnx.load(small), onnx.load(tmp_path / "small.int8.onnx")
    assert sizes(integers) == sizes(plain) == sizes(found.quantized)
    assert min(sizes(plain).values()) < SHARED
    run = session(integers)
    assert np.array_equal(generated(run, IDS, 8, True), generated(run, IDS, 8, False))


def test_caches_of_a_fixed_length_are_cut():
    """TensorScatter writes new keys and values at their places."""
    calib = {**joined_data(), "places": np.full(48, 1)}
    found = prune(ir.from_proto(joined(scatter=True)), calib=calib, **SMALL)
    assert set(found.report.proof.differences) == {"logits", "present.key", "present.value"}
    assert set(sizes(found.model).values()) != {4}


def test_caches_that_plain_operators_join_are_quantized_as_well(tmp_path):
    found = prune(ir.from_proto(joined()), calib=joined_data(), quantize="int8", **SMALL)
    assert not found.report.failures
    assert set(found.report.proof.differences) == {"logits", "present.key", "present.value"}
    before, after = (sizes(one) for one in (found.model, found.quantized))
    assert before == after
    assert set(before.values()) != {4}
    fed = {name: array[:2] for name, array in joined_data().items()}
    small = {name: array[:, : before[name]] if name in before else array for name, array in fed.items()}
    for y, z in zip(*(session(one).run(None, small) for one in (found.model, found.quantized)), strict=True):
        assert y.shape == z.shape
        assert np.linalg.norm(y - z) < 0.2 * np.linalg.norm(y)


def joined(heads=4, head=8, width=16, words=32, scatter=False):
    """One attention of plain operators, whose caches are joined by Concat, or written by TensorScatter."""
    g = Net(3)
    shape = g.constant("shape", [0, 0, heads, head], np.int64)
    x = g.op("Gather", g.weight("embed", words, width, fan_in=2), "input_ids", name="x")
    parts = {}
    for name in ("query", "key", "value"):
        y = g.op("MatMul", x, g.weight(f"{name}.weight", width, heads * head, fan_in=2 * width))
        parts[name] = g.op("Transpose", g.op("Reshape", y, shape), perm=[0, 2, 1, 3])
    for name in ("key", "value"):
        if scatter:
            g.op("TensorScatter", f"past.{name}", parts[name], "places", name=f"present.{name}", axis=2)
        else:
            g.op("Concat", f"past.{name}", parts[name], name=f"present.{name}", axis=2)
    scores = g.op("MatMul", parts["query"], g.op("Transpose", "present.key", perm=[0, 1, 3, 2]))
    y = g.op("MatMul", g.op("Softmax", scores, axis=-1), "present.value")
    back = g.constant("back", [0, 0, heads * head], np.int64)
    y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), back)
    y = g.op("Add", x, g.op("MatMul", y, g.weight("o", heads * head, width, fan_in=2 * heads * head)))
    g.op("MatMul", y, g.weight("head", width, words, fan_in=2 * width), name="logits")
    value = onnx.helper.make_tensor_value_info
    inputs = [value("input_ids", 7, ["batch", "new"])]
    inputs += [value("places", 7, ["batch"])] if scatter else []
    length = 5 if scatter else "past"
    inputs += [value(f"past.{name}", 1, ["batch", heads, length, head]) for name in ("key", "value")]
    outputs = [value("logits", 1, ["batch", "new", words])]
    outputs += [value(f"present.{name}", 1, ["batch", heads, "all", head]) for name in ("key", "value")]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in g.tensors.items()]
    graph = onnx.helper.make_graph(g.nodes, "joined", inputs, outputs, tensors)
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 24 if scatter else 17)], ir_version=10
    )


def joined_data(count=48):
    rng = np.random.default_rng(0)
    caches = {f"past.{name}": rng.standard_normal((count, 4, 5, 8)) for name in ("key", "value")}
    return {
        "input_ids": rng.integers(0, 32, (count, 3)),
        **{name: array.astype(np.float32) for name, array in caches.items()},
    }


def test_every_model_of_a_frontier_says_its_own_caches(tmp_path):
    path = written(tmp_path / "in", config())
    found = pareto(
        path,
        calib=data(),
        effort="quick",
        change_caches=True,
        latency=False,
        cost="params",
        points=2,
        least=0.6,
        output=tmp_path / "out",
    )
    assert len(found.models) > 0
    for point, model in zip(found.frontier.kept, found.models, strict=True):
        shapes = sizes(model)
        lies = tmp_path / "out" / point.file
        assert shapes == sizes(onnx.load(lies))
        kept = json.loads(lies.with_suffix(".keep.json").read_text()).get("caches", {})
        assert {name: len(axes["1"]) for name, axes in kept.items()} == {
            name: count for name, count in shapes.items() if name.startswith("past") and count < SHARED
        }
        said = lies.with_suffix(".genai_config.json")
        if kept and said.exists():
            decoder_config = json.loads(said.read_text())["model"]["decoder"]
            assert {decoder_config["num_key_value_heads"]} == set(shapes.values())
        elif kept:
            assert any("differ from layer to layer" in alert for alert in found.frontier.alerts)
    assert min(min(sizes(model).values()) for model in found.models) < SHARED


def test_channels_of_caches_are_listed_and_scored(tmp_path):
    path = written(tmp_path / "in")
    groups = [
        [(group.name, group.channels) for group in inspect(path, change_caches=change).groups]
        for change in (False, True)
    ]
    more = [("qkv0.weight[1]", SHARED), ("qkv1.weight[1]", SHARED)]
    assert sorted([*groups[0], *more]) == sorted(groups[1])
    for change in (False, True):
        found = score(path, calib=data(), criterion="l1", change_caches=change)
        assert [(group.name, len(group.raw)) for group in found.groups] == groups[change]
    alone = tmp_path / "alone.onnx"
    onnx.save(decoder("packed", cache=False), alone)
    for verb in (inspect, partial(score, calib=data())):
        with pytest.raises(OptionError, match=r"alone\.onnx has no cache"):
            verb(alone, change_caches=True)
