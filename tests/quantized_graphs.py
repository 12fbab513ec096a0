"""Random networks in integers, as onnxruntime's tools write them, and removal of channels from them.

A network is a chain of blocks with random weights: convolutions, residual, joined, depthwise and grouped
ones, pools, gates, and products of tokens. Each format is what a user of onnxruntime gets from it: pairs of
QuantizeLinear and DequantizeLinear, operators on integers, ranges taken at run time, weights in blocks, and
the same once the optimizer has fused and saved it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import onnxruntime as ort
from channel_helpers import random_keep
from nets import Net
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from obs_onnx.io.onnx_file import from_proto
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.channels.remove_channels import RemoveChannels
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import ObsOnnxError, VerificationError
from obs_onnx.runtimes import open_runtime
from obs_onnx.runtimes.sessions.partial_run import open_whole
from obs_onnx.verification.removal import check_removal

__all__ = ["FORMATS", "VERDICTS", "Outcome", "outcome", "random_net", "removal"]

SIZE, BLOCK = 8, 16  # of images, and of weights that share a scale
Verdict = Literal["equal", "rounded", "left alone", "refused", "wrong", "failed"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Outcome:
    """What came of the removal of channels from one network.

    Attributes:
        verdict: ``equal`` bit for bit; ``rounded``: equal but for the order of sums of fractions, with
            the same decisions in both, or computed operator by operator;
            ``left alone``: nothing may go; ``refused`` with a sentence; ``wrong`` numbers; ``failed`` by an
            exception.
        reason: why, where something is left alone or worse.
        groups: kinds of channels that were found.
        operators: types of the nodes.
    """

    verdict: Verdict
    reason: str = ""
    groups: int = 0
    operators: frozenset[str] = frozenset()


class _Images(CalibrationDataReader):
    def __init__(self, seed: int) -> None:
        self._feeds = iter([{"x": images(seed, 4)} for _ in range(2)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def images(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, SIZE, SIZE)).astype(np.float32)


def _activated(net: Net, x: str) -> str:
    kind = net.rng.choice(["Relu", "Relu", "LeakyRelu", "Sigmoid", "HardSwish", "Clip", ""])
    if kind == "Clip":
        bounds = [net.constant(f"bound{len(net.nodes)}{k}", value) for k, value in enumerate((0.0, 6.0))]
        return net.op("Clip", x, *bounds)
    return net.op(str(kind), x) if kind else x


def _conv(net: Net, x: str, o: int, i: int, **more: int) -> str:
    return net.conv(x, f"c{len(net.nodes)}", o, i, **more)


def _chain(net: Net, x: str, c: int) -> tuple[str, int]:
    o = int(net.rng.choice([4, 6, 8, 12]))
    return _activated(net, _conv(net, x, o, c, k=int(net.rng.choice([1, 3])))), o


def _residual(net: Net, x: str, c: int) -> tuple[str, int]:
    inner = int(net.rng.choice([4, 6, 8]))
    y = _conv(net, _activated(net, _conv(net, x, inner, c)), c, inner, k=1)
    return net.op("Relu", net.op("Add", x, y)), c


def _joined(net: Net, x: str, c: int) -> tuple[str, int]:
    a, b = _activated(net, _conv(net, x, 4, c, k=1)), _activated(net, _conv(net, x, 6, c))
    parts, width = [a, b], 10
    if net.rng.random() < 0.4:
        parts, width = [x, *parts], 10 + c
    return net.op("Concat", *parts, axis=1), width


def _depthwise(net: Net, x: str, c: int) -> tuple[str, int]:
    y = net.op("Relu", _conv(net, x, 2 * c, c, k=1))
    y = net.op("Relu", _conv(net, y, 2 * c, 2 * c, group=2 * c))
    o = int(net.rng.choice([4, 8]))
    return _conv(net, y, o, 2 * c, k=1), o


def _grouped(net: Net, x: str, c: int) -> tuple[str, int]:
    return (net.op("Relu", _conv(net, x, 8, c, group=2)), 8) if c % 2 == 0 else _chain(net, x, c)


def _gated(net: Net, x: str, c: int) -> tuple[str, int]:
    y = net.op("GlobalAveragePool", x)
    y = net.op("Relu", _conv(net, y, 4, c, k=1))
    return net.op("Mul", x, net.op("Sigmoid", _conv(net, y, c, 4, k=1))), c


def _pooled(net: Net, x: str, c: int) -> tuple[str, int]:
    kind = str(net.rng.choice(["MaxPool", "AveragePool"]))
    return net.op(kind, x, kernel_shape=[3, 3], pads=[1] * 4), c


def _normalized(net: Net, x: str, c: int) -> tuple[str, int]:
    o = int(net.rng.choice([6, 8]))
    return net.op("Relu", net.batch_norm(_conv(net, x, o, c), f"n{len(net.nodes)}", o)), o


def _shuffled(net: Net, x: str, c: int) -> tuple[str, int]:
    if c % 2:
        return x, c
    name = f"s{len(net.nodes)}"
    y = net.op("Reshape", x, net.constant(f"{name}.a", [0, 2, c // 2, SIZE, SIZE], np.int64))
    y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return net.op("Reshape", y, net.constant(f"{name}.b", [0, c, SIZE, SIZE], np.int64)), c


def _split(net: Net, x: str, c: int) -> tuple[str, int]:
    if c % 2:
        return x, c
    name = f"h{len(net.nodes)}"
    net.op("Split", x, name=[f"{name}.a", f"{name}.b"], axis=1, num_outputs=2)
    return net.op("Mul", f"{name}.a", net.op("Sigmoid", f"{name}.b")), c // 2


BLOCKS = (
    _chain, _residual, _joined, _depthwise, _grouped, _gated, _pooled, _normalized, _shuffled, _split,
)  # fmt: skip


def _head(net: Net, x: str, c: int) -> str:
    kind = int(net.rng.integers(3))
    if kind == 0:
        return net.dense(net.pooled(x), "head", c, 5)
    if kind == 1:
        y = net.op("Flatten", net.op("MaxPool", x, kernel_shape=[4, 4], strides=[4, 4]))
        hidden = net.op("Relu", net.dense(y, "fc", 4 * c, 16))
        return net.dense(hidden, "head", 16, 5)
    rows = net.constant("rows", [0, c, SIZE * SIZE], np.int64)
    y = net.op("Transpose", net.op("Reshape", x, rows), perm=[0, 2, 1])
    hidden = net.op("MatMul", y, net.weight("up", c, 32, fan_in=c))
    hidden = _activated(net, net.op("Add", hidden, net.weight("up.bias", 32, fan_in=100)))
    y = net.op("Add", y, net.op("MatMul", hidden, net.weight("down", 32, c, fan_in=32)))
    return net.op("MatMul", net.op("ReduceMean", y, net.constant("over", [1], np.int64), keepdims=0),
                  net.weight("head", c, 5, fan_in=c))  # fmt: skip


def random_net(seed: int) -> onnx.ModelProto:
    """A network of numbers on images (batch, 3, 8, 8), with five outputs."""
    net = Net(seed)
    x, c = _activated(net, net.conv("x", "stem", 8, 3)), 8
    for k in net.rng.integers(len(BLOCKS), size=int(net.rng.integers(1, 5))):
        x, c = BLOCKS[k](net, x, c)
    net.op("Identity", _head(net, x, c), name="y")
    return net.proto({"x": [3, SIZE, SIZE]}, {"y": [5]}, opset=21)


Convert = Callable[[onnx.ModelProto, Path, int], onnx.ModelProto]

_S8, _U8, _S16, _U16 = QuantType.QInt8, QuantType.QUInt8, QuantType.QInt16, QuantType.QUInt16


def _static(
    proto: onnx.ModelProto,
    folder: Path,
    seed: int,
    form: QuantFormat = QuantFormat.QDQ,
    activations: QuantType = _U8,
    weights: QuantType = _S8,
    *,
    per_channel: bool = False,
    **extra: object,
) -> onnx.ModelProto:
    quantize_static(
        proto,
        folder / "static.onnx",
        _Images(seed),
        quant_format=form,
        activation_type=activations,
        weight_type=weights,
        per_channel=per_channel,
        extra_options=extra,
    )
    return onnx.load(folder / "static.onnx")


def _dynamic(
    proto: onnx.ModelProto, folder: Path, seed: int, weights: QuantType = _S8, *, per_channel: bool = False
) -> onnx.ModelProto:
    quantize_dynamic(proto, folder / "dynamic.onnx", weight_type=weights, per_channel=per_channel)
    return onnx.load(folder / "dynamic.onnx")


def _blocked(
    proto: onnx.ModelProto,
    folder: Path,
    seed: int,
    form: QuantFormat = QuantFormat.QOperator,
    bits: int = 4,
    *,
    symmetric: bool = True,
) -> onnx.ModelProto:
    quantizer = MatMulNBitsQuantizer(
        proto, bits=bits, block_size=BLOCK, is_symmetric=symmetric, quant_format=form
    )
    quantizer.process()
    found = quantizer.model.model
    if not any(entry.domain == "com.microsoft" for entry in found.opset_import):
        found.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return found


def _fused(proto: onnx.ModelProto, folder: Path, seed: int, convert: Convert) -> onnx.ModelProto:
    """What the optimizer saves."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.intra_op_num_threads = 1
    converted = convert(proto, folder, seed)
    ort.InferenceSession(converted.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "fused.onnx")


_QOPERATOR = QuantFormat.QOperator

_PLAIN: Mapping[str, Convert] = {
    "QDQ u8s8": _static,
    "QDQ u8s8 per channel": partial(_static, per_channel=True),
    "QDQ s8s8": partial(_static, activations=_S8),
    "QDQ s8s8 per channel": partial(_static, activations=_S8, per_channel=True),
    "QDQ s8s8 symmetric": partial(_static, activations=_S8, ActivationSymmetric=True),
    "QDQ u8u8": partial(_static, weights=_U8),
    "QDQ u8u8 per channel": partial(_static, weights=_U8, per_channel=True),
    "QDQ u16s8": partial(_static, activations=_U16, UseQDQContribOps=True),
    "QDQ s16s8 per channel": partial(_static, activations=_S16, per_channel=True),
    "QDQ u8 int4 weights": partial(_static, weights=QuantType.QInt4, per_channel=True),
    "QOperator u8s8": partial(_static, form=_QOPERATOR),
    "QOperator u8s8 per channel": partial(_static, form=_QOPERATOR, per_channel=True),
    "QOperator u8u8": partial(_static, form=_QOPERATOR, weights=_U8),
    "QOperator u8u8 per channel": partial(_static, form=_QOPERATOR, weights=_U8, per_channel=True),
    "QOperator s8s8": partial(_static, form=_QOPERATOR, activations=_S8),
    "dynamic s8": _dynamic,
    "dynamic u8": partial(_dynamic, weights=_U8),
    "dynamic u8 per channel": partial(_dynamic, weights=_U8, per_channel=True),
    "blocks of 4 bits": _blocked,
    "blocks of 4 bits, zero points": partial(_blocked, symmetric=False),
    "blocks of 8 bits": partial(_blocked, bits=8),
    "blocks of 4 bits in QDQ": partial(_blocked, form=QuantFormat.QDQ),
}

FORMATS: Mapping[str, Convert] = {
    **_PLAIN,
    **{
        f"{name}, fused": partial(_fused, convert=_PLAIN[name])
        for name in (
            "QDQ u8s8",
            "QDQ s8s8 per channel",
            "QDQ u8u8",
            "QOperator u8s8",
            "dynamic s8",
            "dynamic u8",
        )
    },
}
"""Name of a format -> the network in it."""


def removal(proto: onnx.ModelProto, seed: int) -> Outcome:
    """Take channels out of ``proto`` at random, and compare.

    Args:
        proto: any network on ``x`` (batch, 3, 8, 8).
        seed: of the channels and the data.
    """
    operators = frozenset(node.op_type for node in proto.graph.node)
    coupling = couple(prepare(from_proto(proto)))
    if not coupling.groups:
        reasons = [f"{one.op_type}: {one.reason}" for one in coupling.frozen]
        return Outcome("left alone", "; ".join(dict.fromkeys(reasons)), 0, operators)
    runtime, feed = open_runtime("onnxruntime", 1), {"x": images(seed, 3)}
    rounded = False
    for k in range(2):
        keep = random_keep(coupling, seed + k)
        small = coupling.model.clone()
        RemoveChannels(keep).call(small)
        sessions = [open_whole(runtime, model) for model in (small, silence(coupling.model, keep, coupling))]
        found, expected = (session.run(feed)["y"] for session in sessions)
        if not np.array_equal(found, expected):
            rounded = True
            try:
                agreement = check_removal(runtime, coupling, keep, small, feed)
            except VerificationError as error:
                off = np.abs(found - expected).max() / np.abs(expected).max()
                return Outcome("wrong", f"{error} ({off:.1e})", len(coupling.groups), operators)
            if agreement.left_out:
                return Outcome("wrong", str(agreement.left_out), len(coupling.groups), operators)
    return Outcome("rounded" if rounded else "equal", "", len(coupling.groups), operators)


def outcome(seed: int, form: str, folder: Path) -> Outcome:
    """The network of a seed in a format, with channels removed."""
    try:
        proto = FORMATS[form](random_net(seed), folder, seed)
    except Exception as error:
        return Outcome("failed", f"not made: {error}")
    try:
        return removal(proto, seed)
    except ObsOnnxError as error:
        return Outcome("refused", str(error))
    except Exception as error:
        return Outcome("failed", f"{type(error).__name__}: {error}")
