"""Whole runs in which streams are rotated before they are cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from channel_graphs import node
from rotations import stream

from obs_onnx import prune, replay
from obs_onnx.passes.errors import DataError, OptionError


@pytest.fixture
def narrow() -> onnx.ModelProto:
    """A stream whose few directions are no channels."""
    rng, wide = np.random.default_rng(0), 32
    low = rng.standard_normal((4, wide)) @ np.diag(np.geomspace(1, 1e-2, wide))
    mixed = np.linalg.qr(rng.standard_normal((wide, wide)))[0]
    more = {
        "w": low @ mixed, "b": np.zeros(wide), "s": rng.uniform(0.5, 2, wide), "t": np.zeros(wide),
        "v": rng.standard_normal((wide, 3)),
    }  # fmt: skip
    return stream(node("LayerNormalization", "h s t", "z", axis=-1), **more)


def test_rotated_cut_and_replayed(narrow: onnx.ModelProto, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((256, 5, 4)).astype(np.float32)
    errors = {}
    for rotate in (True, False):
        out = tmp_path / f"{rotate}.onnx"
        found = prune(
            narrow, out, calib={"x": x}, targets=["macs=0.5"], rotate=rotate, latency=False, effort="quick"
        )
        errors[rotate] = found.report.output_error
        assert any("rotated to principal axes" in note for note in found.report.notes) == rotate
        again = tmp_path / f"{rotate}.again.onnx"
        replayed = replay(narrow, keep=tmp_path / f"{rotate}.keep.json", output=again, calib={"x": x})
        assert ("without removal the rotated model differs by" in replayed.notes[0]) == rotate
        written = {one.name: list(one.dims) for one in onnx.load(out).graph.initializer}
        assert {one.name: list(one.dims) for one in onnx.load(again).graph.initializer} == written
    assert errors[True] < errors[False]


def low(rng: np.random.Generator, outputs: int, inputs: int, rank: int) -> np.ndarray:
    """A kernel of 3 x 3 of nearly this rank."""
    factors = (
        rng.standard_normal((outputs, rank)),
        rng.standard_normal((rank, inputs * 9)) / (3 * inputs**0.5),
    )
    noise = rng.standard_normal((outputs, inputs * 9)) * 1e-2
    return (factors[0] @ factors[1] + noise).reshape(outputs, inputs, 3, 3)


@pytest.fixture
def redundant(make_model: Callable[..., ir.Model]) -> onnx.ModelProto:
    """Convolutions of low rank whose channels all count."""
    text = """g (float[N,3,8,8] x) => (float[N,5] y) {
        a = Conv <pads = [1, 1, 1, 1]> (x, w1)  b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1]> (b, w2)  d = Relu (c)
        e = Conv <pads = [1, 1, 1, 1]> (d, w3)  f = Relu (e)
        p = GlobalAveragePool (f)  q = Flatten (p)  y = MatMul (q, head)
    }"""
    rng = np.random.default_rng(0)
    weights = {
        "w1": rng.standard_normal((16, 3, 3, 3)) / 5, "w2": low(rng, 16, 16, 4), "w3": low(rng, 16, 16, 4),
        "head": rng.standard_normal((16, 5)),
    }  # fmt: skip
    return ir.to_proto(make_model(text, {name: w.astype(np.float32) for name, w in weights.items()}))


def test_ranks_of_layers_go(redundant: onnx.ModelProto, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((256, 3, 8, 8)).astype(np.float32)
    errors, dense = {}, sum(node.op_type == "Conv" for node in redundant.graph.node)
    for low_rank in (True, False):
        out = tmp_path / f"{low_rank}.onnx"
        found = prune(
            redundant, out, calib={"x": x}, targets=["macs=0.5"], low_rank=low_rank, latency=False,
            effort="quick",
        )  # fmt: skip
        assert found.report.met
        errors[low_rank] = found.report.output_error
        pairs = sum(node.op_type == "Conv" for node in onnx.load(out).graph.node) - dense
        assert (pairs > 0) == low_rank
    assert errors[True] < 0.5 * errors[False]
    with pytest.raises(DataError):
        replay(redundant, keep=tmp_path / "True.keep.json", output=tmp_path / "no.onnx", calib={"x": x})


@pytest.mark.parametrize("other", [{"rotate": False}, {"compensate": False}, {"allocation": "taylor"}])
def test_ranks_go_by_damage(redundant: onnx.ModelProto, other: dict[str, object]) -> None:
    x = np.zeros((8, 3, 8, 8), np.float32)
    with pytest.raises(OptionError, match="low_rank"):
        prune(redundant, calib={"x": x}, targets=["macs=0.5"], low_rank=True, **other)
