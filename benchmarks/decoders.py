#!/usr/bin/env python3
"""Attention as exporters write it, with random weights: what of it can go, and whether that is right.

    python benchmarks/decoders.py [NAME-PART ...] [--target 0.6]

prints one row per graph: channels of each group, whether the removal equals the silenced model, the share
of the parameters that is left of a target, CPU seconds. Graphs with caches come twice, the second time with
caches that change with their heads. Then come whole models: encoders, two towers, and encoders with both of
their decoders in three files, which are joined. Exit code 1 if a removal is wrong. With ``--operators`` it
prints instead which operators of the installed onnxruntime (com.microsoft) have no rule for shapes or none
for channels.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import obs_onnx
from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import ObsOnnxError, VerificationError
from obs_onnx.passes.interface.caches import find_caches
from obs_onnx.passes.interface.joined import join
from obs_onnx.passes.ops import TABLE
from obs_onnx.passes.shapes.contrib import ALIASES, SHAPES
from obs_onnx.passes.shapes.infer_shapes import InferShapes

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from encoders import MODELS, feeds
from nets import Net
from whole_models import FILES, Size

VOCABULARY, WIDTH, HEADS, SHARED, HEAD, HIDDEN, LAYERS = 96, 64, 6, 2, 16, 96, 2
EXPERTS, CHOSEN, BLOCK, KERNEL = 4, 2, 32, 4
MICROSOFT = "com.microsoft"


class Graph(Net):
    """A graph of random weights that is being written, with numbers for names."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def held(self, values: object, dtype: type = np.int64) -> str:
        """The name of a new constant."""
        return self.constant(f"w{len(self.tensors)}", values, dtype)

    def random(self, *shape: int) -> str:
        """The name of new random weights."""
        return self.weight(f"w{len(self.tensors)}", *shape, fan_in=2 * shape[0])

    def linear(self, x: str, width: int, out: int) -> str:
        """A product with weights."""
        return self.op("MatMul", x, self.random(width, out))

    def norm(self, x: str) -> str:
        """A normalization over the width."""
        scale = self.held(self.rng.uniform(0.7, 1.3, WIDTH), np.float32)
        return self.op("LayerNormalization", x, scale, axis=-1)

    def input(self, name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> str:
        """A new input."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, shape: list[int | str]) -> None:
        """A new output."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def model(self, opset: int) -> onnx.ModelProto:
        """The whole."""
        weights = [numpy_helper.from_array(array, name) for name, array in self.tensors.items()]
        graph = helper.make_graph(self.nodes, "decoder", self.inputs, self.outputs, weights)
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


Attention = Callable[[Graph, str, int], str]
Data = dict[str, NDArray[np.generic]]


def _lengths(g: Graph) -> tuple[str, str]:
    for name, shape in (("seqlens_k", ["batch"]), ("total_sequence_length", [])):
        if name not in {one.name for one in g.inputs}:
            g.input(name, list(shape), TensorProto.INT32)
    return "seqlens_k", "total_sequence_length"


def _cache(g: Graph, layer: int) -> list[str]:
    shape = ["batch", SHARED, "past", HEAD]
    return [g.input(f"past_key_values.{layer}.{name}", list(shape)) for name in ("key", "value")]


def _attended(g: Graph, layer: int, cached: bool) -> list[str]:
    """Names of what an attention gives: its result, and the cache for the next step."""
    presents = [f"present.{layer}.{name}" for name in ("key", "value")]
    for name in presents if cached else ():
        shape = ["batch", SHARED, "total", HEAD]
        g.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return [f"attended.{layer}", *presents]


def linear(g: Graph, x: str, layer: int) -> str:
    """A short convolution and LinearAttention, whose states are inputs and outputs."""
    own, shared = HEADS * HEAD, SHARED * HEAD
    pasts = [f"past_key_values.{layer}.{name}" for name in ("conv_state", "recurrent_state")]
    presents = [f"present.{layer}.{name}" for name in ("conv_state", "recurrent_state")]
    shapes: list[list[int | str]] = [["batch", WIDTH, KERNEL - 1], ["batch", SHARED, HEAD, HEAD]]
    for past, present, shape in zip(pasts, presents, shapes, strict=True):
        g.input(past, shape)
        g.outputs.append(helper.make_tensor_value_info(present, TensorProto.FLOAT, shape))
    h = g.op("Transpose", g.linear(x, WIDTH, WIDTH), perm=[0, 2, 1])
    kernel, bias = g.random(WIDTH, 1, KERNEL), g.held(g.rng.standard_normal(WIDTH) / 9, np.float32)
    given, name = (h, kernel, bias, pasts[0]), [f"convolved.{layer}", presents[0]]
    h = g.op("CausalConvWithState", *given, name=name, domain=MICROSOFT, activation="silu")
    h = g.op("Transpose", h, perm=[0, 2, 1])
    parts = [g.linear(h, WIDTH, out) for out in (own, shared, shared)]
    decay = g.op("Neg", g.op("Sigmoid", g.linear(x, WIDTH, SHARED)))
    rate = g.op("Sigmoid", g.linear(x, WIDTH, SHARED))
    counts = {"q_num_heads": HEADS, "kv_num_heads": SHARED, "scale": 0.1}
    name = [f"attended.{layer}", presents[1]]
    y = g.op("LinearAttention", *parts, pasts[1], decay, rate, name=name, domain=MICROSOFT, **counts)
    return g.linear(y, own, WIDTH)


def grouped(packed: bool, cached: bool) -> Attention:
    """GroupQueryAttention."""

    def attention(g: Graph, x: str, layer: int) -> str:
        own, shared = HEADS * HEAD, SHARED * HEAD
        if packed:
            parts = [g.linear(x, WIDTH, own + 2 * shared), "", ""]
        else:
            parts = [g.linear(x, WIDTH, out) for out in (own, shared, shared)]
        past = _cache(g, layer) if cached else ["", ""]
        counts = {"num_heads": HEADS, "kv_num_heads": SHARED}
        given = (*parts, *past, *_lengths(g))
        names = _attended(g, layer, cached)
        y = g.op("GroupQueryAttention", *given, name=names, domain=MICROSOFT, **counts)
        return g.linear(y, own, WIDTH)

    return attention


def standard(cached: bool) -> Attention:
    """Attention of opset 23."""

    def attention(g: Graph, x: str, layer: int) -> str:
        own, shared = HEADS * HEAD, SHARED * HEAD
        parts = [g.linear(x, WIDTH, out) for out in (own, shared, shared)]
        past = ["", *_cache(g, layer)] if cached else []
        counts = {"q_num_heads": HEADS, "kv_num_heads": SHARED, "is_causal": 1}
        names = _attended(g, layer, cached)[: 3 if cached else 1]
        y = g.op("Attention", *parts, *past, name=names, **counts)
        return g.linear(y, own, WIDTH)

    return attention


def multi_head(g: Graph, x: str, layer: int) -> str:
    """MultiHeadAttention, as in an encoder."""
    parts = [g.linear(x, WIDTH, HEADS * HEAD) for _ in range(3)]
    y = g.op("MultiHeadAttention", *parts, domain=MICROSOFT, num_heads=HEADS)
    return g.linear(y, HEADS * HEAD, WIDTH)


def crossed(g: Graph, x: str, layer: int) -> str:
    """Attention to what an encoder gives."""
    if layer == 0:
        g.input("encoder_hidden_states", ["batch", "frames", WIDTH])
    parts = [g.linear(one, WIDTH, HEADS * HEAD) for one in (x, *["encoder_hidden_states"] * 2)]
    y = g.op("MultiHeadAttention", *parts, domain=MICROSOFT, num_heads=HEADS)
    return g.linear(y, HEADS * HEAD, WIDTH)


def relative(g: Graph, x: str, layer: int) -> str:
    """Attention of plain operators with a bias for each distance, as in T5."""
    heads = g.held([0, 0, HEADS, HEAD])
    parts = [g.op("Reshape", g.linear(x, WIDTH, HEADS * HEAD), heads) for _ in range(3)]
    q, v = (g.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (parts[0], parts[2]))
    scores = g.op("MatMul", q, g.op("Transpose", parts[1], perm=[0, 2, 3, 1]))
    length = g.op("Gather", g.op("Shape", "input_ids"), g.held(1))
    places = g.op("Range", g.held(0), length, g.held(1))
    rows, columns = (g.op("Unsqueeze", places, g.held([axis])) for axis in (0, 1))
    longest = [g.held(limit) for limit in (-8, 8)]
    distance = g.op("Add", g.op("Clip", g.op("Sub", rows, columns), *longest), longest[1])
    bias = g.op("Transpose", g.op("Gather", g.random(17, HEADS), distance), perm=[2, 0, 1])
    y = g.op("MatMul", g.op("Softmax", g.op("Add", scores, bias), axis=-1), v)
    y = g.op("Reshape", g.op("Transpose", y, perm=[0, 2, 1, 3]), g.held([0, 0, HEADS * HEAD]))
    return g.linear(y, HEADS * HEAD, WIDTH)


def dense(g: Graph, x: str) -> str:
    """Two layers with a Relu between them."""
    return g.linear(g.op("Relu", g.linear(x, WIDTH, HIDDEN)), HIDDEN, WIDTH)


def mixture(g: Graph, x: str) -> str:
    """MoE, whose router reads the same."""
    tokens = g.op("Reshape", x, g.held([-1, WIDTH]))
    scores = g.linear(tokens, WIDTH, EXPERTS)
    up, down = g.random(EXPERTS, HIDDEN, WIDTH), g.random(EXPERTS, WIDTH, HIDDEN)
    given = {"k": CHOSEN, "activation_type": "relu", "normalize_routing_weights": 1}
    return g.op("MoE", x, scores, up, "", down, domain=MICROSOFT, **given)


def build(attention: Attention, feed_forward: Callable[[Graph, str], str], opset: int) -> onnx.ModelProto:
    """A decoder, or an encoder, with an attention."""
    g = Graph()
    ids = g.input("input_ids", ["batch", "sequence"], TensorProto.INT64)
    x = g.op("Gather", g.random(VOCABULARY, WIDTH), ids)
    for layer in range(LAYERS):
        x = g.op("Add", x, attention(g, g.norm(x), layer))
        x = g.op("Add", x, feed_forward(g, g.norm(x)))
    g.output(g.linear(g.norm(x), WIDTH, VOCABULARY), "logits", ["batch", "sequence", VOCABULARY])
    return g.model(opset)


def described(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with value_info."""
    model = ir.from_proto(proto)
    InferShapes().call(model)
    return ir.to_proto(model)


def in_blocks(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same with weights of 4 bits (MatMulNBits)."""
    quantizer = MatMulNBitsQuantizer(proto, block_size=BLOCK, is_symmetric=True)
    quantizer.process()
    return quantizer.model.model


@dataclass(frozen=True)
class Form:
    """How a graph is written; ``after`` changes what was written."""

    attention: Attention
    opset: int = 21
    feed_forward: Callable[[Graph, str], str] = dense
    after: Callable[[onnx.ModelProto], onnx.ModelProto] = lambda proto: proto

    def model(self) -> ir.Model:
        """The graph."""
        return ir.from_proto(self.after(build(self.attention, self.feed_forward, self.opset)))


GRAPHS = {
    "grouped, unpacked": Form(grouped(False, False)),
    "grouped, unpacked, cache": Form(grouped(False, True)),
    "grouped, packed, cache": Form(grouped(True, True)),
    "grouped, packed, cache, value_info": Form(grouped(True, True), after=described),
    "grouped, unpacked, 4 bits": Form(grouped(False, False), after=in_blocks),
    "grouped, packed, cache, 4 bits": Form(grouped(True, True), after=in_blocks),
    "opset 23": Form(standard(False), 23),
    "opset 23, cache": Form(standard(True), 23),
    "linear attention": Form(linear),
    "mixture of experts": Form(grouped(False, False), feed_forward=mixture),
    "encoder": Form(multi_head),
    "cross-attention": Form(crossed),
    "relative positions": Form(relative),
}


def rows(names: list[str], target: float) -> Iterator[tuple[str, ...]]:
    """Name, channels, removal, share left, seconds."""
    random = np.random.default_rng(1)
    for name, form in GRAPHS.items():
        if not _asked(name, names):
            continue
        model = form.model()
        data: Data = {"input_ids": random.integers(0, VOCABULARY, (64, 12))}
        if any(value.name == "encoder_hidden_states" for value in model.graph.inputs):
            data["encoder_hidden_states"] = random.standard_normal((64, 7, WIDTH)).astype(np.float32)
        yield row(name, model, data, target, False)
        if find_caches(model):
            yield row(f"{name}, changed", model, data, target, True)
    for name, build_whole in MODELS.items():
        if _asked(f"whole {name}", names):
            several = [feeds(name, seed) for seed in range(24)]  # two towers give one feed for each
            yield row(f"whole {name}", ir.from_proto(build_whole()), several, target, False)
    for name, files in FILES.items():
        if _asked(f"three files {name}", names):
            parts = files(Size(width=WIDTH, hidden=HIDDEN, words=VOCABULARY))
            model = join({part: plain(ir.from_proto(proto)) for part, proto in parts.items()})
            yield row(f"three files {name}", model, _tokens(model, random), target, False)


def _asked(name: str, names: list[str]) -> bool:
    return not names or any(part in name for part in names)


def _tokens(model: ir.Model, random: np.random.Generator) -> Data:
    """Data for the inputs of files that are joined."""
    found: Data = {}
    for value in model.graph.inputs:
        name = str(value.name)
        if name == "input_features":
            found[name] = random.standard_normal((64, Size().mels, 24)).astype(np.float32)
        elif name.endswith("mask"):
            found[name] = np.ones((64, 12), np.int64)
        else:
            length = 1 if "with_past" in name else 12 if "encoder" in name else 6
            found[name] = random.integers(0, VOCABULARY, (64, length))
    return found


def row(
    name: str, model: ir.Model, data: Data | list[Data], target: float, change_caches: bool
) -> tuple[str, ...]:
    """The row of one graph."""
    start, sizes, left = time.process_time(), "-", "-"
    try:
        found = obs_onnx.prune(
            model,
            targets={"params": target},
            mode="channels",
            calib=data,
            effort="quick",
            change_caches=change_caches,
        )
        sizes = " ".join(str(group.channels) for group in found.report.groups)
        removal, left = "equal", f"{_parameters(found.model) / _parameters(model):.2f}"
    except VerificationError as error:
        removal = f"WRONG: {error}"
    except ObsOnnxError as error:
        removal = f"refused: {error}"
    return name, sizes, removal, left, f"{time.process_time() - start:.1f}"


def _parameters(model: ir.Model) -> int:
    values = model.graph.initializers.values()
    return sum(one.const_value.size for one in values if one.const_value is not None)


def operators() -> None:
    """Print what nothing is known about."""
    names = sorted({schema.name for schema in get_all_operator_schema() if schema.domain == MICROSOFT})
    tables = {key.partition("::")[2] for key, op in TABLE.items() if op.relate and key.startswith(MICROSOFT)}
    shapes = {key.partition("::")[2] for key in (*SHAPES, *ALIASES) if key.startswith(MICROSOFT)}
    rows = (("shapes", shapes), ("channels", tables))
    for what, there in rows:
        lacking = [name for name in names if name not in there]
        print(f"no rule for {what}: {len(lacking)} of {len(names)}: {', '.join(lacking)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("names", nargs="*", help="parts of names of graphs; default: all")
    parser.add_argument("--target", type=float, default=0.6, help="share of the parameters")
    parser.add_argument("--operators", action="store_true", help="what has no rules")
    options = parser.parse_args()
    if options.operators:
        operators()
        return 0
    logging.disable(logging.INFO)  # the quantizer tells of every node
    wrong = False
    print(
        "| graph | channels of the groups | removal | parameters left | CPU seconds |\n|---|---|---|---|---|"
    )
    for row in rows(options.names, options.target):
        wrong |= row[2].startswith("WRONG")
        print(f"| {' | '.join(row)} |", flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
