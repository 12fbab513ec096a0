"""Encoders with their decoders in tests and benchmarks, of random weights, as they are exported.

Linear layers are MatMul and Add; heads are made by Reshape to sizes that the graph computes, as exports by
tracing do, and by Transpose; scores are MatMul, Add of a mask, Softmax. Encoders and decoders are files of
their own, the latter twice: for the first tokens, and for one that goes on from caches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from nets import Net
from onnx import TensorProto, helper, numpy_helper

__all__ = ["FILES", "Size"]

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Size:
    """Sizes of a model."""

    width: int = 32
    heads: int = 4
    hidden: int = 48
    layers: int = 2
    words: int = 64
    longest: int = 24
    mels: int = 8

    @property
    def head(self) -> int:
        return self.width // self.heads


class Graph(Net):
    """A graph of random weights that are the same under the same name."""

    def __init__(self, size: Size, opset: int = 17) -> None:
        super().__init__()
        self.size, self.opset = size, opset
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def random(self, name: str, *shape: int) -> str:
        rng = np.random.default_rng([len(name), *name.encode()])
        scale = 1.5 / np.sqrt(max(1, shape[0] if len(shape) > 1 else 16))
        return self.constant(name, scale * rng.standard_normal(shape))

    def ints(self, *values: int) -> str:
        name = "ints_" + "_".join(map(str, values)).replace("-", "m")
        return self.constant(name, np.array(values), np.int64)

    def number(self, value: float) -> str:
        return self.constant(f"number_{value:.6g}", np.array(value))

    def linear(self, x: str, name: str, width: int, out: int, bias: bool = True) -> str:
        y = self.op("MatMul", x, self.random(f"{name}.weight", width, out))
        return self.op("Add", self.random(f"{name}.bias", out), y) if bias else y

    def norm(self, x: str, name: str) -> str:
        rng = np.random.default_rng([len(name), *name.encode()])
        scale = self.constant(f"{name}.weight", rng.uniform(0.7, 1.3, self.size.width))
        return self.op("LayerNormalization", x, scale, self.random(f"{name}.bias", self.size.width), axis=-1)

    def rms(self, x: str, name: str) -> str:
        """The norm of T5 in plain operators."""
        square = self.op("Pow", x, self.number(2.0))
        mean = self.op("ReduceMean", square, axes=[-1])
        root = self.op("Sqrt", self.op("Add", mean, self.number(1e-6)))
        rng = np.random.default_rng([len(name), *name.encode()])
        scale = self.constant(f"{name}.weight", rng.uniform(0.7, 1.3, self.size.width))
        return self.op("Mul", self.op("Div", x, root), scale)

    def dim(self, x: str, axis: int) -> str:
        """A size, as a vector of one."""
        taken = self.op(
            "Gather", self.op("Shape", x), self.constant(f"axis_{axis}", np.array(axis), np.int64)
        )
        return self.op("Unsqueeze", taken, self.ints(0))

    def apart(self, x: str) -> str:
        """(batch, tokens, width) to (batch, heads, tokens, width of a head)."""
        sizes = [self.dim(x, 0), self.dim(x, 1), self.ints(self.size.heads), self.ints(self.size.head)]
        y = self.op("Reshape", x, self.op("Concat", *sizes, axis=0))
        return self.op("Transpose", y, perm=[0, 2, 1, 3])

    def joined(self, x: str) -> str:
        """The way back."""
        y = self.op("Transpose", x, perm=[0, 2, 1, 3])
        sizes = [self.dim(y, 0), self.dim(y, 1), self.ints(self.size.width)]
        return self.op("Reshape", y, self.op("Concat", *sizes, axis=0))

    def attended(self, q: str, k: str, v: str, scale: bool, *added: str) -> str:
        if scale:
            q = self.op("Mul", q, self.number(self.size.head**-0.5))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        for one in added:
            scores = self.op("Add", scores, one)
        return self.joined(self.op("MatMul", self.op("Softmax", scores, axis=-1), v))

    def input(self, name: str, shape: Sequence[int | str], kind: int = FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, x: str, name: str, shape: Sequence[int | str]) -> None:
        self.nodes.append(helper.make_node("Identity", [x], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, FLOAT, list(shape)))

    def model(self) -> onnx.ModelProto:
        weights = [numpy_helper.from_array(array, name) for name, array in self.tensors.items()]
        graph = helper.make_graph(self.nodes, "main_graph", self.inputs, self.outputs, weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)


def _hidden(g: Graph, mask: str) -> str:
    """(batch, tokens) of ones and zeros to what is added to scores."""
    wide = g.op("Unsqueeze", g.op("Cast", mask, to=FLOAT), g.ints(1, 2))
    return g.op("Mul", g.op("Sub", g.number(1.0), wide), g.number(-1e9))


def _causal(g: Graph, ids: str) -> str:
    """(tokens, tokens), what is added to scores."""
    length = g.op("Squeeze", g.dim(ids, 1), g.ints(0))
    places = g.op(
        "Range", g.constant("zero", np.array(0), np.int64), length, g.constant("one", np.array(1), np.int64)
    )
    later = g.op("Less", g.op("Unsqueeze", places, g.ints(1)), g.op("Unsqueeze", places, g.ints(0)))
    return g.op("Mul", g.op("Cast", later, to=FLOAT), g.number(-1e9))


def _places(g: Graph, ids: str) -> str:
    length = g.op("Squeeze", g.dim(ids, 1), g.ints(0))
    zero, one = (g.constant(name, np.array(i), np.int64) for i, name in enumerate(("zero", "one")))
    return g.op("Range", zero, length, one)


def _ffn(g: Graph, x: str, name: str, activation: str = "gelu", bias: bool = True) -> str:
    h = g.linear(x, f"{name}.fc1", g.size.width, g.size.hidden, bias)
    if activation == "relu":
        h = g.op("Relu", h)
    else:
        erf = g.op("Add", g.op("Erf", g.op("Div", h, g.number(2**0.5))), g.number(1.0))
        h = g.op("Mul", g.op("Mul", h, erf), g.number(0.5))
    return g.linear(h, f"{name}.fc2", g.size.hidden, g.size.width, bias)


def _project(g: Graph, x: str, name: str, bias: bool = True) -> str:
    return g.apart(g.linear(x, name, g.size.width, g.size.width, bias))


def _self(g: Graph, x: str, name: str, *added: str, bias: bool = True, scale: bool = True) -> str:
    q, k, v = (_project(g, x, f"{name}.{part}", bias) for part in "qkv")
    return g.linear(g.attended(q, k, v, scale, *added), f"{name}.out", g.size.width, g.size.width, bias)


def _cross(g: Graph, x: str, name: str, kv: tuple[str, str], bias: bool, scale: bool, *added: str) -> str:
    q = _project(g, x, f"{name}.q", bias)
    y = g.attended(q, *kv, scale, *added)
    return g.linear(y, f"{name}.out", g.size.width, g.size.width, bias)


def _cache(g: Graph, i: int, kind: str, length: str) -> tuple[str, str]:
    shape = ["batch_size", g.size.heads, length, g.size.head]
    return tuple(g.input(f"past_key_values.{i}.{kind}.{part}", shape) for part in ("key", "value"))


def _present(g: Graph, i: int, kind: str, pair: tuple[str, str], length: str) -> None:
    for part, x in zip(("key", "value"), pair, strict=True):
        g.output(x, f"present.{i}.{kind}.{part}", ["batch_size", g.size.heads, length, g.size.head])


@dataclass(frozen=True)
class Kind:
    """What tells encoders and decoders of different families apart."""

    norm: Callable[[Graph, str, str], str]
    activation: str
    bias: bool
    scale: bool
    relative: bool
    masked: bool


WHISPER = Kind(Graph.norm, "gelu", True, True, False, False)
T5 = Kind(Graph.rms, "relu", False, False, True, True)
BART = Kind(Graph.norm, "gelu", True, True, False, True)


def _relative(g: Graph, name: str, rows: str, columns: str) -> str:
    """A bias for each distance between places, of each head: (1, heads, queries, keys)."""
    distance = g.op("Sub", g.op("Unsqueeze", columns, g.ints(0)), g.op("Unsqueeze", rows, g.ints(1)))
    low, high = (g.constant(f"limit{n}", np.array(n), np.int64) for n in (-8, 8))
    place = g.op("Add", g.op("Min", g.op("Max", distance, low), high), high)
    bias = g.op("Gather", g.random(f"{name}.relative", 17, g.size.heads), place)
    return g.op("Unsqueeze", g.op("Transpose", bias, perm=[2, 0, 1]), g.ints(0))


def encoder(size: Size, kind: Kind) -> onnx.ModelProto:
    """encoder_model.onnx."""
    g = Graph(size)
    added = []
    if kind.masked:
        ids = g.input("input_ids", ["batch_size", "encoder_sequence_length"], INT)
        added.append(_hidden(g, g.input("attention_mask", ["batch_size", "encoder_sequence_length"], INT)))
        x = g.op("Gather", g.random("shared", size.words, size.width), ids)
        if kind.relative:
            places = _places(g, ids)
            added.append(_relative(g, "encoder", places, places))
        else:
            x = g.op(
                "Add",
                x,
                g.op("Gather", g.random("encoder.places", size.longest, size.width), _places(g, ids)),
            )
    else:
        sound = g.input("input_features", ["batch_size", size.mels, 24])
        for i, (n, stride) in enumerate(((size.mels, 1), (size.width, 2))):
            kernel = g.random(f"conv{i}.weight", size.width, n, 3)
            options = {"kernel_shape": [3], "pads": [1, 1], "strides": [stride]}
            sound = g.op("Conv", sound, kernel, g.random(f"conv{i}.bias", size.width), **options)
            sound = g.op("Relu", sound)
        x = g.op("Transpose", sound, perm=[0, 2, 1])
        x = g.op("Add", x, g.random("encoder.places", 12, size.width))
    for i in range(size.layers):
        name = f"encoder.{i}"
        h = kind.norm(g, x, f"{name}.norm1")
        x = g.op("Add", x, _self(g, h, name, *added, bias=kind.bias, scale=kind.scale))
        x = g.op("Add", x, _ffn(g, kind.norm(g, x, f"{name}.norm2"), name, kind.activation, kind.bias))
    length = "encoder_sequence_length" if kind.masked else 12
    g.output(kind.norm(g, x, "encoder.norm"), "last_hidden_state", ["batch_size", length, size.width])
    return g.model()


def decoder(size: Size, kind: Kind, past: bool) -> onnx.ModelProto:
    """decoder_model.onnx, or decoder_with_past_model.onnx."""
    g = Graph(size)
    ids = g.input("input_ids", ["batch_size", 1 if past else "decoder_sequence_length"], INT)
    length = "encoder_sequence_length" if kind.masked else "frames"
    hidden = (
        [_hidden(g, g.input("encoder_attention_mask", ["batch_size", length], INT))] if kind.masked else []
    )
    if not past:
        states = g.input("encoder_hidden_states", ["batch_size", length, size.width])
    x = g.op("Gather", g.random("shared", size.words, size.width), ids)
    pasts = [_cache(g, i, "decoder", "past_length") for i in range(size.layers)] if past else []
    crosses = [_cache(g, i, "encoder", "encoder_length") for i in range(size.layers)] if past else []
    places = _places(g, ids)
    if past:
        places = g.op("Add", places, g.op("Squeeze", g.dim(pasts[0][0], 2), g.ints(0)))
    added = [] if past else [_causal(g, ids)]
    if kind.relative:
        columns = places
        if past:
            zero, one = (g.constant(name, np.array(i), np.int64) for i, name in enumerate(("zero", "one")))
            columns = g.op("Range", zero, g.op("Add", g.op("Squeeze", places, g.ints(0)), one), one)
        added.append(_relative(g, "decoder", places, columns))
    else:
        x = g.op("Add", x, g.op("Gather", g.random("decoder.places", size.longest, size.width), places))
    for i in range(size.layers):
        name = f"decoder.{i}"
        h = kind.norm(g, x, f"{name}.norm1")
        q, k, v = (_project(g, h, f"{name}.self.{part}", kind.bias) for part in "qkv")
        if past:
            k, v = (g.op("Concat", old, new, axis=2) for old, new in zip(pasts[i], (k, v), strict=True))
        y = g.attended(q, k, v, kind.scale, *added)
        x = g.op("Add", x, g.linear(y, f"{name}.self.out", size.width, size.width, kind.bias))
        h = kind.norm(g, x, f"{name}.norm2")
        cross = (
            crosses[i] if past else tuple(_project(g, states, f"{name}.cross.{p}", kind.bias) for p in "kv")
        )
        x = g.op("Add", x, _cross(g, h, f"{name}.cross", cross, kind.bias, kind.scale, *hidden))
        x = g.op("Add", x, _ffn(g, kind.norm(g, x, f"{name}.norm3"), name, kind.activation, kind.bias))
        _present(g, i, "decoder", (k, v), "total_length")
        if not past:
            _present(g, i, "encoder", cross, length)
    x = kind.norm(g, x, "decoder.norm")
    x = g.op("MatMul", x, g.op("Transpose", g.random("shared", size.words, size.width), perm=[1, 0]))
    g.output(x, "logits", ["batch_size", 1 if past else "decoder_sequence_length", size.words])
    return g.model()


def files(kind: Kind) -> Callable[[Size], Mapping[str, onnx.ModelProto]]:
    """The three files of an encoder and a decoder."""
    return lambda size: {
        "encoder_model": encoder(size, kind),
        "decoder_model": decoder(size, kind, False),
        "decoder_with_past_model": decoder(size, kind, True),
    }


FILES = {"Whisper": files(WHISPER), "T5": files(T5), "BART": files(BART)}
