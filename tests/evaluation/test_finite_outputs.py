"""A model whose error cannot be measured is refused, with the node that is to blame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from nets import build_model

from obs_onnx import finetune, prune, score
from obs_onnx.evaluation.finite_outputs import check_outputs
from obs_onnx.evaluation.measures.output_damage import Damage
from obs_onnx.evaluation.measures.yardstick import yardstick_of
from obs_onnx.evaluation.quality import Tally
from obs_onnx.io.onnx_file import from_proto, serialize
from obs_onnx.passes.errors import DataError, ModelError, OptionError
from obs_onnx.runtimes.onnxruntime import OrtRuntime

RNG = np.random.default_rng(0)
W = {"w": RNG.standard_normal((6, 8)).astype(np.float32), "v": RNG.standard_normal((8, 4)).astype(np.float32)}
BODY = "h = MatMul(x, w)  r = Relu(h)  z = MatMul(r, v)  "
X = {"x": RNG.standard_normal((64, 6)).astype(np.float32)}


def opened(body: str, **more: object) -> ir.Model:
    model = from_proto(build_model(f"g (float[N,6] x) => (float[N,4] y) {{ {BODY}{body} }}", {**W, **more}))
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return model


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = Log(z)", "gives NaN in its output 'y' .* is 'node_y' .Log."),
        ("a = Log(z)  b = Relu(a)  y = Neg(b)", "NaN .* is 'node_a' .Log."),
        ("a = Abs(z)  b = Add(a, far)  y = Div(b, zero)", "nothing but infinite values .* 'node_y' .Div."),
        ("a = Mul(z, far)  b = Exp(a)  y = Sub(b, b)", "NaN .* is 'node_y' .Sub."),
    ],
)
@pytest.mark.parametrize("mode", ["channels", "weights"])
def test_the_first_node_is_named(body: str, message: str, mode: str, tmp_path: Path) -> None:
    model = opened(body, zero=np.float32(0), far=np.float32(1e30))
    targets = {"macs": 0.5} if mode == "channels" else {"sparsity": 0.5}
    with pytest.raises(ModelError, match=message):
        prune(model, calib=X, mode=mode, targets=targets, effort="quick", output=tmp_path / "o.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("row", [3, 200, 311])
def test_any_sample_may_be_the_one(row: int) -> None:
    model = opened("q = ReduceMax(x, last)  l = Sqrt(q)  y = Mul(z, l)", last=np.array([1]))
    x = np.abs(RNG.standard_normal((320, 6))).astype(np.float32)
    x[row] = -1
    with pytest.raises(ModelError, match=r"gives NaN in its output 'y' .* is 'node_l' \(Sqrt"):
        prune(model, calib={"x": x}, targets={"macs": 0.5})


@pytest.mark.parametrize("broken", ["student", "teacher"])
def test_nothing_is_learnt_from_or_for_what_is_no_number(broken: str, tmp_path: Path) -> None:
    models = {
        name: opened("y = Log(z)" if name == broken else "y = Neg(z)") for name in ("student", "teacher")
    }
    name = "the model" if broken == "student" else "the teacher "
    with pytest.raises(ModelError, match=f"^{name}.* gives NaN"):
        finetune(models["student"], data=X, teacher=models["teacher"], steps=2, output=tmp_path / "o.onnx")
    with pytest.raises(ModelError, match="gives NaN"):
        score(models[broken], calib=X, criterion="magnitude")
    assert not list(tmp_path.iterdir())


def test_masked_scores_are_fine_and_noted() -> None:
    model = opened("y = Where(mask, z, low)", mask=np.arange(4) > 1, low=np.array(-np.inf, np.float32))
    runtime = OrtRuntime(threads=1)
    outputs = runtime.session(serialize(model)).run(X)
    (note,) = check_outputs(runtime, model, X, outputs)
    assert "output 'y' of the model has infinite values" in note
    model = opened("y = Neg(z)")
    assert check_outputs(runtime, model, X, runtime.session(serialize(model)).run(X)) == []


def test_single_samples_without_an_answer_are_found_later() -> None:
    y = np.ones((4, 3), np.float32)
    broken = y.copy()
    broken[2, 1] = np.nan
    yardstick = yardstick_of([{"y": y}])
    tally = Tally(yardstick)
    with pytest.raises(DataError, match="output 'y' of the reference is NaN"):
        tally.add({"y": y}, reference={"y": broken})
    tally = Tally(yardstick)
    tally.add({"y": broken}, reference={"y": y})
    assert tally.result().output_error == np.inf


def test_damage_of_infinite_outputs_warns_nobody() -> None:
    y = np.array([[np.inf, 1.0, -np.inf]], np.float32)
    for measure in ("error", "kl"):
        damage = Damage(yardstick_of([{"y": y}], task="classification", loss=measure), ["y"])
        damage.update({"y": y}, {"y": y[:, ::-1]})
        assert not np.isfinite(damage.value) or damage.value >= 0


def test_layers_whose_inputs_are_too_large_are_named() -> None:
    model = opened("y = Neg(z)")
    model.graph.initializers["w"].const_value = ir.tensor(W["w"] * 1e19, name="w")
    model.graph.initializers["v"].const_value = ir.tensor(W["v"] * 1e18, name="v")
    with pytest.raises(DataError, match=r"the values at layer '[wv]' \(node 'node_\w'\) are not finite"):
        prune(model, calib=X, targets={"macs": 0.6}, effort="quick", round_to=1, latency=False)


@pytest.mark.parametrize("batch", [10**8, 10**12])
def test_a_batch_that_does_not_fit_is_refused_at_once(batch: int, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"batch .* of memory, more than"):
        prune(
            opened("y = Neg(z)"),
            calib=X,
            targets={"macs": 0.6},
            batch=100 * batch,
            output=tmp_path / "o.onnx",
        )
    assert not list(tmp_path.iterdir())
