"""Encoders, and decoders that read them, in tests: graphs of plain operators as PyTorch exports them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from nets import Net
from onnx import TensorProto, helper, numpy_helper

HEADS, HEAD, WIDTH, UNITS, WORDS, LAYERS = 4, 6, 20, 28, 48, 2
"""Sizes: heads, width of a head, residual, hidden units, vocabulary, layers; all different."""


class Exported(Net):
    """A graph whose sizes follow from Shape, as with dynamic axes."""

    def linear(self, x: str, name: str, i: int, o: int, bias: bool = True) -> str:
        y = self.op("MatMul", x, self.weight(f"{name}.weight", i, o, fan_in=2 * i))
        return self.op("Add", y, self.weight(f"{name}.bias", o, fan_in=9)) if bias else y

    def norm(self, x: str, name: str) -> str:
        scale = self.constant(f"{name}.weight", self.rng.uniform(0.7, 1.3, WIDTH))
        shift = self.weight(f"{name}.bias", WIDTH, fan_in=9)
        return self.op("LayerNormalization", x, scale, shift, axis=-1)

    def rms(self, x: str, name: str) -> str:
        """T5's norm, written out."""
        square = self.op("Pow", x, self.constant(f"{name}.two", 2.0))
        mean = self.op("ReduceMean", square, axes=[-1])
        root = self.op("Sqrt", self.op("Add", mean, self.constant(f"{name}.eps", 1e-6)))
        y = self.op("Mul", x, self.op("Div", self.constant(f"{name}.one", 1.0), root))
        return self.op("Mul", self.constant(f"{name}.weight", self.rng.uniform(0.7, 1.3, WIDTH)), y)

    def size(self, x: str, axis: int) -> str:
        """One size of a value, as a vector."""
        place = self.op("Gather", self.op("Shape", x), self.number(axis), axis=0)
        return self.op("Unsqueeze", place, self.vector([0]))

    def number(self, value: int) -> str:
        return self.constant(f"i{len(self.tensors)}", value, np.int64)

    def vector(self, values: Sequence[int]) -> str:
        return self.constant(f"n{len(self.tensors)}", values, np.int64)

    def apart(self, x: str, source: str, keys: bool = False) -> str:
        """(batch, tokens, heads * width) as (batch, heads, tokens, width), of keys turned."""
        target = self.op("Concat", self.size(source, 0), self.vector([-1]), self.vector([HEADS]),
                         self.vector([HEAD]), axis=0)  # fmt: skip
        y = self.op("Reshape", x, target)
        return self.op("Transpose", y, perm=[0, 2, 3, 1] if keys else [0, 2, 1, 3])

    def attention(
        self, x: str, memory: str, name: str, bias: str = "", scale: bool = True, plain: bool = False
    ) -> str:
        """Attention of ``x`` to ``memory``; ``bias`` is added to the scores."""
        q, k, v = (
            self.linear(source, f"{name}.{part}", WIDTH, HEADS * HEAD, not plain)
            for part, source in (("q", x), ("k", memory), ("v", memory))
        )
        q, k, v = self.apart(q, x), self.apart(k, memory, keys=True), self.apart(v, memory)
        scores = self.op("MatMul", q, k)
        if scale:
            scores = self.op("Div", scores, self.constant(f"{name}.scale", HEAD**0.5))
        if bias:
            scores = self.op("Add", scores, bias)
        y = self.op("Transpose", self.op("MatMul", self.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        sizes = self.size(x, 0), self.size(x, 1), self.vector([HEADS * HEAD])
        y = self.op("Reshape", y, self.op("Concat", *sizes, axis=0))
        return self.linear(y, f"{name}.o", HEADS * HEAD, WIDTH, not plain)

    def gelu(self, x: str) -> str:
        """By Erf, written out."""
        erf = self.op("Erf", self.op("Div", x, self.number_of(2**0.5)))
        return self.op(
            "Mul", self.op("Mul", x, self.op("Add", erf, self.number_of(1.0))), self.number_of(0.5)
        )

    def number_of(self, value: float) -> str:
        return self.constant(f"f{len(self.tensors)}", value)

    def forward(self, x: str, name: str) -> str:
        return self.linear(
            self.gelu(self.linear(x, f"{name}.up", WIDTH, UNITS)), f"{name}.down", UNITS, WIDTH
        )

    def mask(self, name: str) -> str:
        """(batch, tokens) of ones and zeros as what is added to scores."""
        mask = self.op("Unsqueeze", name, self.vector([1, 2]))
        mask = self.op("Cast", mask, to=TensorProto.FLOAT)
        return self.op("Mul", self.op("Sub", self.number_of(1.0), mask), self.number_of(-1e4))

    def causal(self, x: str) -> str:
        """What keeps a token from those behind it."""
        length = self.size(x, 1)
        square = self.op("Expand", self.number_of(-1e4), self.op("Concat", length, length, axis=0))
        return self.op("Trilu", square, self.number(1), upper=1)

    def embedded(self, ids: str, name: str) -> str:
        """Tokens and their positions."""
        x = self.op("Gather", self.weight(f"{name}.words", WORDS, WIDTH, fan_in=2), ids)
        length = self.op("Gather", self.op("Shape", ids), self.number(1), axis=0)
        places = self.op("Range", self.number(0), length, self.number(1))
        return self.op(
            "Add", x, self.op("Gather", self.weight(f"{name}.places", 32, WIDTH, fan_in=2), places)
        )

    def model(self, inputs: dict[str, tuple], outputs: dict[str, tuple]) -> onnx.ModelProto:
        """The whole; ``ids`` and masks are integers."""
        kinds = {name: 7 if "ids" in name or "mask" in name else 1 for name in (*inputs, *outputs)}
        graph = helper.make_graph(
            self.nodes,
            "exported",
            [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


IDS = {"input_ids": ("batch", "tokens"), "attention_mask": ("batch", "tokens")}


def bert() -> onnx.ModelProto:
    """An encoder with norms behind, types of tokens, and a classifier of the first one."""
    g = Exported(1)
    x = g.embedded("input_ids", "embed")
    x = g.op("Add", x, g.op("Gather", g.weight("embed.types", 2, WIDTH, fan_in=2), "token_type_ids"))
    x, mask = g.norm(x, "embed.norm"), g.mask("attention_mask")
    for i in range(LAYERS):
        x = g.norm(g.op("Add", x, g.attention(x, x, f"{i}.self", mask)), f"{i}.n1")
        x = g.norm(g.op("Add", x, g.forward(x, f"{i}.mlp")), f"{i}.n2")
    first = g.op("Gather", x, g.number(0), axis=1)
    y = g.op("Tanh", g.linear(first, "pool", WIDTH, 14))
    g.op("Identity", g.linear(y, "head", 14, 3), name="logits")
    return g.model({**IDS, "token_type_ids": ("batch", "tokens")}, {"logits": ("batch", 3)})


def clip() -> onnx.ModelProto:
    """Two towers: text, whose last token is the largest id, and patches of an image; scores of all pairs."""
    g = Exported(2)
    x = g.embedded("input_ids", "text")
    causal = g.causal(x)
    for i in range(LAYERS):
        y = g.norm(x, f"text.{i}.n1")
        x = g.op("Add", x, g.attention(y, y, f"text.{i}.self", causal))
        x = g.op("Add", x, g.forward(g.norm(x, f"text.{i}.n2"), f"text.{i}.mlp"))
    end = g.op("ArgMax", "input_ids", axis=-1, keepdims=0)
    rows = g.op("Range", g.number(0), g.op("Squeeze", g.size("input_ids", 0)), g.number(1))
    places = [g.op("Unsqueeze", one, g.vector([1])) for one in (rows, end)]
    text = g.op("GatherND", g.norm(x, "text.norm"), g.op("Concat", *places, axis=1))
    x = g.op("Conv", "pixel_values", g.weight("vision.patch", WIDTH, 3, 4, 4), strides=[4, 4])
    target = g.op("Concat", g.size(x, 0), g.vector([WIDTH]), g.vector([-1]), axis=0)
    x = g.op("Transpose", g.op("Reshape", x, target), perm=[0, 2, 1])
    token = g.weight("vision.class", 1, 1, WIDTH, fan_in=2)
    token = g.op("Expand", token, g.op("Concat", g.size(x, 0), g.vector([1, WIDTH]), axis=0))
    x = g.op("Add", g.op("Concat", token, x, axis=1), g.weight("vision.places", 5, WIDTH, fan_in=2))
    for i in range(LAYERS):
        y = g.norm(x, f"vision.{i}.n1")
        x = g.op("Add", x, g.attention(y, y, f"vision.{i}.self"))
        x = g.op("Add", x, g.forward(g.norm(x, f"vision.{i}.n2"), f"vision.{i}.mlp"))
    image = g.op("Gather", g.norm(x, "vision.norm"), g.number(0), axis=1)
    both = []
    for name, y in (("text", text), ("vision", image)):
        y = g.linear(y, f"{name}.out", WIDTH, 16, bias=False)
        both.append(g.op("Div", y, g.op("ReduceL2", y, axes=[-1], keepdims=1)))
    turned = g.op("Transpose", both[1], perm=[1, 0])
    g.op("Mul", g.op("MatMul", both[0], turned), g.number_of(10.0), name="logits_per_text")
    inputs = {"input_ids": ("texts", "tokens"), "pixel_values": ("images", 3, 8, 8)}
    return g.model(inputs, {"logits_per_text": ("texts", "images")})


def whisper_encoder() -> onnx.ModelProto:
    """Two convolutions over time, then layers without a mask."""
    g = Exported(3)
    biases = [g.weight(f"b{i}", WIDTH, fan_in=9) for i in (1, 2)]
    x = g.op("Conv", "input_features", g.weight("c1", WIDTH, 10, 3), biases[0], pads=[1, 1])
    second = g.weight("c2", WIDTH, WIDTH, 3)
    x = g.op("Conv", g.gelu(x), second, biases[1], pads=[1, 1], strides=[2])
    places = g.weight("places", 8, WIDTH, fan_in=2)
    x = g.op("Add", g.op("Transpose", g.gelu(x), perm=[0, 2, 1]), places)
    for i in range(LAYERS):
        y = g.norm(x, f"{i}.n1")
        x = g.op("Add", x, g.attention(y, y, f"{i}.self"))
        x = g.op("Add", x, g.forward(g.norm(x, f"{i}.n2"), f"{i}.mlp"))
    g.op("Identity", g.norm(x, "norm"), name="last_hidden_state")
    return g.model({"input_features": ("batch", 10, 16)}, {"last_hidden_state": ("batch", 8, WIDTH)})


def whisper_decoder() -> onnx.ModelProto:
    """Causal attention, attention to an encoder, and scores by the table of the embedding."""
    g = Exported(4)
    x = g.embedded("input_ids", "embed")
    causal = g.causal(x)
    for i in range(LAYERS):
        y = g.norm(x, f"{i}.n1")
        x = g.op("Add", x, g.attention(y, y, f"{i}.self", causal))
        x = g.op("Add", x, g.attention(g.norm(x, f"{i}.n2"), "encoder_hidden_states", f"{i}.cross"))
        x = g.op("Add", x, g.forward(g.norm(x, f"{i}.n3"), f"{i}.mlp"))
    g.op("MatMul", g.norm(x, "norm"), g.op("Transpose", "embed.words", perm=[1, 0]), name="logits")
    inputs = {"input_ids": ("batch", "tokens"), "encoder_hidden_states": ("batch", "frames", WIDTH)}
    return g.model(inputs, {"logits": ("batch", "tokens", WORDS)})


def _distances(g: Exported, x: str, name: str) -> str:
    """A bias for each head and clipped distance of two tokens: (1, heads, tokens, tokens)."""
    length = g.op("Squeeze", g.size(x, 1))
    places = g.op("Range", g.number(0), length, g.number(1))
    rows, columns = (g.op("Unsqueeze", places, g.vector([axis])) for axis in (0, 1))
    low, high = g.number(-4), g.number(4)
    distance = g.op("Add", g.op("Min", g.op("Max", g.op("Sub", rows, columns), low), high), high)
    bias = g.op("Gather", g.weight(f"{name}.distances", 9, HEADS, fan_in=2), distance)
    return g.op("Unsqueeze", g.op("Transpose", bias, perm=[2, 0, 1]), g.vector([0]))


def _gated(g: Exported, x: str, name: str) -> str:
    gate = g.gelu(g.linear(x, f"{name}.gate", WIDTH, UNITS, bias=False))
    gate = g.op("Mul", gate, g.linear(x, f"{name}.up", WIDTH, UNITS, bias=False))
    return g.linear(gate, f"{name}.down", UNITS, WIDTH, bias=False)


def t5_encoder() -> onnx.ModelProto:
    """Relative positions of the first layer in all of them, no scale, norms written out, gated units."""
    g = Exported(5)
    x = g.op("Gather", g.weight("words", WORDS, WIDTH, fan_in=2), "input_ids")
    bias = g.op("Add", _distances(g, x, "encoder"), g.mask("attention_mask"))
    for i in range(LAYERS):
        y = g.rms(x, f"{i}.n1")
        x = g.op("Add", x, g.attention(y, y, f"{i}.self", bias, scale=False, plain=True))
        x = g.op("Add", x, _gated(g, g.rms(x, f"{i}.n2"), f"{i}.mlp"))
    g.op("Identity", g.rms(x, "norm"), name="last_hidden_state")
    return g.model(IDS, {"last_hidden_state": ("batch", "tokens", WIDTH)})


def t5_decoder() -> onnx.ModelProto:
    """The decoder of the same kind, with a mask for the encoder, and scores by the scaled embedding."""
    g = Exported(6)
    x = g.op("Gather", g.weight("words", WORDS, WIDTH, fan_in=2), "input_ids")
    bias = g.op("Add", _distances(g, x, "decoder"), g.causal(x))
    mask = g.mask("encoder_attention_mask")
    for i in range(LAYERS):
        y = g.rms(x, f"{i}.n1")
        x = g.op("Add", x, g.attention(y, y, f"{i}.self", bias, scale=False, plain=True))
        y = g.attention(g.rms(x, f"{i}.n2"), "encoder_hidden_states", f"{i}.cross", mask, False, True)
        x = g.op("Add", x, y)
        x = g.op("Add", x, _gated(g, g.rms(x, f"{i}.n3"), f"{i}.mlp"))
    y = g.op("Mul", g.rms(x, "norm"), g.number_of(WIDTH**-0.5))
    g.op("MatMul", y, g.op("Transpose", "words", perm=[1, 0]), name="logits")
    inputs = {
        "input_ids": ("batch", "tokens"),
        "encoder_hidden_states": ("batch", "frames", WIDTH),
        "encoder_attention_mask": ("batch", "frames"),
    }
    return g.model(inputs, {"logits": ("batch", "tokens", WORDS)})


MODELS = {
    "bert": bert,
    "clip": clip,
    "whisper encoder": whisper_encoder,
    "whisper decoder": whisper_decoder,
    "t5 encoder": t5_encoder,
    "t5 decoder": t5_decoder,
}


def feeds(name: str, seed: int = 0, batch: int = 3, tokens: int = 5) -> dict[str, np.ndarray]:
    """What a model takes."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, WORDS, (batch, tokens))
    mask = np.arange(tokens) < rng.integers(2, tokens + 1, (batch, 1))
    frames = np.arange(7) < rng.integers(3, 8, (batch, 1))
    every = {
        "input_ids": ids,
        "attention_mask": mask.astype(np.int64),
        "token_type_ids": rng.integers(0, 2, (batch, tokens)),
        "pixel_values": rng.standard_normal((batch + 1, 3, 8, 8)).astype(np.float32),
        "input_features": rng.standard_normal((batch, 10, 16)).astype(np.float32),
        "encoder_hidden_states": rng.standard_normal((batch, 7, WIDTH)).astype(np.float32),
        "encoder_attention_mask": frames.astype(np.int64),
    }
    return {value.name: every[value.name] for value in MODELS[name]().graph.input}
