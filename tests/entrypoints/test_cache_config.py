"""Caches that change with their heads, from end to end, and the configurations that say how many they are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from decoders import HEAD, HEADS, LAYERS, SHARED, WORDS, decoder, generated, session

from obs_onnx.entrypoints.cache_config import new_configs
from obs_onnx.entrypoints.prune import prune
from obs_onnx.io.paths import config_destination
from obs_onnx.passes.errors import DataError, OptionError

IDS = np.arange(8).reshape(2, 4) * 5
TRAINED = Path(__file__).parents[3] / "shared" / "lm" / "genai_fp32"


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
    assert not found.report.caches


def test_a_model_without_caches_has_none_to_change():
    with pytest.raises(OptionError, match="has no cache"):
        prune(ir.from_proto(decoder("packed", cache=False)), calib=data(), change_caches=True)
    with pytest.raises(OptionError, match="interface"):
        prune(ir.from_proto(decoder("packed")), calib=data(), change_caches=True, quantize="int8")


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
