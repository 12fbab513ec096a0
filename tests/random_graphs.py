"""Random models built from all operators whose tables relate channels.

A value is (name, shape) with the free batch as axis 0; its size is called N below. Every builder appends
nodes for one value and returns the new value, or None where the value does not suit it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Value = tuple[str, tuple[int, ...]]
SIZE = 5  # of images


class Graph:
    """Nodes and initializers so far, all values so far, and a source of choices."""

    def __init__(self, opset: int = 18) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.values: list[Value] = []
        self.rng = np.random.default_rng(0)
        self.opset = opset
        self.count = 0

    def name(self, hint: str) -> str:
        self.count += 1
        return f"{hint}_{self.count}"

    def constant(self, array: np.ndarray) -> str:
        name = self.name("c")
        self.initializers.append(numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def weight(self, *shape: int, scale: float | None = None) -> str:
        fan_in = int(np.prod(shape[1:])) or 1
        array = self.rng.standard_normal(shape) * (scale or (1.5 / fan_in) ** 0.5)
        return self.constant(array.astype(np.float32))

    def near_one(self, *shape: int) -> str:
        return self.constant((1 + 0.2 * self.rng.standard_normal(shape)).clip(0.3).astype(np.float32))

    def op(self, op_type: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: object) -> str:
        names = [self.name(op_type.lower()) for _ in range(outputs)]
        self.nodes.append(
            helper.make_node(op_type, inputs, names, name=self.name("node"), domain=domain, **attributes)
        )
        return names[0]

    def pick(self, *options: object) -> object:
        return options[int(self.rng.integers(len(options)))]

    def other(self, shape: tuple[int, ...]) -> str | None:
        names = [name for name, there in self.values if there == shape]
        return names[int(self.rng.integers(len(names)))] if names else None


Builder = Callable[[Graph, str, tuple[int, ...]], "Value | None"]
BUILDERS: dict[str, Builder] = {}


def builder(rank: int | None = None) -> Callable[[Builder], Builder]:
    def register(function: Builder) -> Builder:
        def guarded(g: Graph, x: str, shape: tuple[int, ...]) -> Value | None:
            return function(g, x, shape) if rank is None or len(shape) == rank else None

        BUILDERS[function.__name__] = guarded
        return guarded

    return register


def _groups(g: Graph, n: int) -> int:
    return int(g.pick(*[k for k in (1, 2, 3, 4, n) if n % k == 0]))  # type: ignore[call-overload]


@builder(4)
def conv(g, x, shape):
    n, c, h, w = shape
    groups = _groups(g, c)
    out = groups * int(g.pick(2, 3, 4)) if groups < c else c
    k = int(g.pick(1, 3))
    bias = [g.weight(out, scale=0.3)] if g.rng.random() < 0.5 else []
    weight = g.weight(out, c // groups, k, k)
    return g.op("Conv", x, weight, *bias, group=groups, pads=[k // 2] * 4), (n, out, h, w)


@builder(4)
def conv_transpose(g, x, shape):
    n, c, h, w = shape
    groups = _groups(g, c)
    out = groups * int(g.pick(1, 2, 3))
    bias = [g.weight(out, scale=0.3)] if g.rng.random() < 0.5 else []
    y = g.op("ConvTranspose", x, g.weight(c, out // groups, 3, 3), *bias, group=groups, pads=[1] * 4)
    return y, (n, out, h, w)


@builder(4)
def batch_norm(g, x, shape):
    c = shape[1]
    parameters = g.near_one(c), g.weight(c, scale=0.2), g.weight(c, scale=0.2), g.near_one(c)
    return g.op("BatchNormalization", x, *parameters), shape


@builder(4)
def instance_norm(g, x, shape):
    c = shape[1]
    return g.op("InstanceNormalization", x, g.near_one(c), g.weight(c, scale=0.2), epsilon=1e-2), shape


@builder(4)
def group_norm(g, x, shape):
    _n, c, h, w = shape
    groups = _groups(g, c)
    y = g.op("Reshape", x, g.ints(0, groups, -1))
    y = g.op("InstanceNormalization", y, g.near_one(groups), g.weight(groups, scale=0.2), epsilon=1e-2)
    y = g.op("Reshape", y, g.ints(-1, c, h, w))
    y = g.op("Mul", y, g.near_one(c, 1, 1))
    return g.op("Add", y, g.weight(c, 1, 1, scale=0.2)), shape


@builder(4)
def pool(g, x, shape):
    kind = g.pick("MaxPool", "AveragePool")
    return g.op(str(kind), x, kernel_shape=[3, 3], pads=[1] * 4), shape


@builder(4)
def squeeze_excite(g, x, shape):
    c = shape[1]
    y = g.op("GlobalAveragePool", x)
    y = g.op("Relu", g.op("Conv", y, g.weight(4, c, 1, 1)))
    y = g.op("HardSigmoid", g.op("Conv", y, g.weight(c, 4, 1, 1), g.weight(c, scale=0.5)))
    return g.op("Mul", x, y), shape


@builder(4)
def spatial_attention(g, x, shape):
    mean = g.op("ReduceMean", x, g.ints(1), keepdims=1)
    most = g.op("ReduceMax", x, g.ints(1), keepdims=1)
    least = g.op("ReduceMin", x, g.ints(1), keepdims=1)
    y = g.op("Concat", mean, most, least, axis=1)
    return g.op("Mul", x, g.op("Sigmoid", g.op("Conv", y, g.weight(1, 3, 3, 3), pads=[1] * 4))), shape


@builder(4)
def shuffle(g, x, shape):
    _n, c, h, w = shape
    groups = _groups(g, c)
    y = g.op("Reshape", x, g.ints(0, groups, c // groups, h, w))
    y = g.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return g.op("Reshape", y, g.ints(-1, c, h, w)), shape


@builder(4)
def space_and_depth(g, x, shape):
    n, c, h, w = shape
    y = g.op("Pad", x, g.ints(0, 0, 0, 0, 0, 0, 1, 1))
    y = g.op("SpaceToDepth", y, blocksize=2)
    y = g.op("Conv", y, g.weight(8, 4 * c, 1, 1))
    mode = str(g.pick("DCR", "CRD"))
    y = g.op("DepthToSpace", y, blocksize=2, mode=mode)
    return g.op("Slice", y, g.ints(0, 0), g.ints(h, w), g.ints(2, 3)), (n, 2, h, w)


@builder(4)
def pad_channels(g, x, shape):
    n, c, h, w = shape
    before, after = int(g.pick(0, 2)), int(g.pick(1, 3))
    return g.op("Pad", x, g.ints(0, before, 0, 0, 0, after, 0, 0)), (n, c + before + after, h, w)


@builder(4)
def slice_channels(g, x, shape):
    n, c, h, w = shape
    if c < 4:
        return None
    start, end, step = g.pick((1, c - 1, 1), (0, -1, 1), (0, c, 2), (c, -c - 1, -1), (-2, -c, -2))  # type: ignore[misc]
    count = len(range(c)[slice(start, None if end < -c else end, step)])
    y = g.op("Slice", x, g.ints(start), g.ints(end), g.ints(1), g.ints(step))
    return y, (n, count, h, w)


@builder(4)
def gather_channels(g, x, shape):
    n, c, h, w = shape
    index = g.rng.permutation(c) if g.rng.random() < 0.5 else g.rng.integers(-c, c, 5)
    return g.op("Gather", x, g.ints(*index), axis=1), (n, len(index), h, w)


@builder(4)
def split_gate(g, x, shape):
    n, c, h, w = shape
    if c % 2:
        return None
    a = g.name("half")
    b = g.name("half")
    g.nodes.append(helper.make_node("Split", [x], [a, b], axis=1, num_outputs=2, name=g.name("node")))
    return g.op(str(g.pick("Mul", "Add", "Max")), a, g.op("Sigmoid", b)), (n, c // 2, h, w)


@builder(4)
def split_concat(g, x, shape):
    n, c, h, w = shape
    if c < 3:
        return None
    a, b = g.name("part"), g.name("part")
    g.nodes.append(helper.make_node("Split", [x, g.ints(1, c - 1)], [a, b], axis=1, name=g.name("node")))
    extra = g.op("Conv", b, g.weight(3, c - 1, 1, 1))
    return g.op("Concat", b, extra, a, axis=1), (n, c + 3, h, w)


@builder()
def add(g, x, shape):
    other = g.other(shape)
    return (g.op(str(g.pick("Add", "Mul", "Sub", "Max")), x, other), shape) if other else None


@builder(4)
def concat(g, x, shape):
    others = [(name, there) for name, there in g.values if len(there) == 4 and there[2:] == shape[2:]]
    name, there = others[int(g.rng.integers(len(others)))]
    return g.op("Concat", x, name, axis=1), (shape[0], shape[1] + there[1], *shape[2:])


@builder()
def activate(g, x, shape):
    kind = str(g.pick("Relu", "Tanh", "Sigmoid", "HardSwish", "Erf", "Softplus", "Abs"))
    return g.op(kind, x), shape


@builder(4)
def prelu(g, x, shape):
    return g.op("PRelu", x, g.weight(shape[1], 1, 1, scale=0.3)), shape


@builder(4)
def resize(g, x, shape):
    scales = g.constant(np.array([1, 1, 2, 2], np.float32))
    y = g.op("Resize", x, "", scales, mode="nearest")
    _n, c, h, w = shape
    if g.rng.random() < 0.5:
        size = g.op("Concat", g.op("Shape", x, start=0, end=1), g.ints(c, h, w), axis=0)
        return g.op("Resize", y, "", "", size, mode="linear"), shape
    return g.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2]), shape


@builder(4)
def quantized(g, x, shape):
    c = shape[1]
    scale, zero = g.constant(np.full(c, 0.05, np.float32)), g.constant(np.zeros(c, np.int8))
    return g.op(
        "DequantizeLinear", g.op("QuantizeLinear", x, scale, zero, axis=1), scale, zero, axis=1
    ), shape


@builder(4)
def tokens(g, x, shape):
    n, c, h, w = shape
    y = g.op("Transpose", g.op("Reshape", x, g.ints(0, c, h * w)), perm=[0, 2, 1])
    return y, (n, h * w, c)


@builder(4)
def tokens_last(g, x, shape):
    n, c, h, w = shape
    y = g.op("Transpose", x, perm=[0, 2, 3, 1])
    target = g.op("Concat", g.op("Gather", g.op("Shape", y), g.ints(0)), g.ints(-1, c), axis=0)
    return g.op("Reshape", y, target), (n, h * w, c)


@builder(4)
def flatten(g, x, shape):
    n, c, _h, _w = shape
    y = g.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    return g.op("Flatten", y), (n, c * 4)


@builder(4)
def global_pool(g, x, shape):
    return g.op("Squeeze", g.op("GlobalAveragePool", x), g.ints(2, 3)), shape[:2]


@builder(3)
def image(g, x, shape):
    n, t, c = shape
    if t != SIZE * SIZE:
        return None
    y = g.op("Transpose", x, perm=[0, 2, 1])
    if g.rng.random() < 0.5:
        whole = g.op("Shape", x)
        batch = g.op("Slice", whole, g.ints(0), g.ints(1))
        width = g.op("Slice", whole, g.ints(2), g.ints(3))
        target = g.op("Concat", batch, width, g.ints(SIZE, SIZE), axis=0)
    else:
        target = g.ints(-1, c, SIZE, SIZE)
    return g.op("Reshape", y, target), (n, c, SIZE, SIZE)


@builder(3)
def linear(g, x, shape):
    out = int(g.pick(6, 8, 12))
    y = g.op("MatMul", x, g.weight(shape[2], out, scale=shape[2] ** -0.5))
    return g.op("Add", g.weight(out, scale=0.3), y), (*shape[:2], out)


@builder(3)
def layer_norm(g, x, shape):
    c = shape[2]
    bias = [g.weight(c, scale=0.2)] if g.rng.random() < 0.7 else []
    return g.op("LayerNormalization", x, g.near_one(c), *bias, epsilon=1e-2), shape


@builder(3)
def layer_norm_by_hand(g, x, shape):
    c = shape[2]
    centred = g.op("Sub", x, g.op("ReduceMean", x, g.ints(-1), keepdims=1))
    variance = g.op("ReduceMean", g.op("Mul", centred, centred), g.ints(2), keepdims=1)
    y = g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, g.constant(np.float32(1e-2)))))
    return g.op("Add", g.op("Mul", y, g.near_one(c)), g.weight(c, scale=0.2)), shape


@builder(3)
def skip_layer_norm(g, x, shape):
    other = g.other(shape)
    if other is None:
        return None
    c = shape[2]
    parameters = g.near_one(c), g.weight(c, scale=0.2), g.weight(c, scale=0.2)
    y = g.op("SkipLayerNormalization", x, other, *parameters, domain="com.microsoft", epsilon=1e-2)
    return y, shape


@builder(3)
def mix_tokens(g, x, shape):
    _n, t, _c = shape
    y = g.op("Transpose", x, perm=[0, 2, 1])
    y = g.op("Relu", g.op("MatMul", y, g.weight(t, 6, scale=t**-0.5)))
    y = g.op("MatMul", y, g.weight(6, t, scale=0.4))
    return g.op("Add", x, g.op("Transpose", y, perm=[0, 2, 1])), shape


def _heads(g: Graph, x: str, heads: int, width: int, repeat: int = 1) -> str:
    """(N, T, heads * width) to (N, heads * repeat, T, width)."""
    if g.rng.random() < 0.5:
        y = g.op("Reshape", x, g.ints(0, 0, heads, width))
    else:
        whole = g.op("Shape", x)
        lead = g.op("Slice", whole, g.ints(0), g.ints(2))
        y = g.op("Reshape", x, g.op("Concat", lead, g.ints(heads), g.ints(-1), axis=0))
    y = g.op("Transpose", y, perm=[0, 2, 1, 3])
    if repeat > 1:
        y = g.op("Unsqueeze", y, g.ints(2))
        batch = g.op("Gather", g.op("Shape", y), g.ints(0))
        tokens = g.op("Gather", g.op("Shape", y), g.ints(3))
        y = g.op("Expand", y, g.op("Concat", batch, g.ints(heads, repeat), tokens, g.ints(width), axis=0))
        y = g.op("Reshape", y, g.op("Concat", batch, g.ints(heads * repeat), tokens, g.ints(width), axis=0))
    return y


@builder(3)
def attention(g, x, shape):
    """Grouped queries: query heads = key heads * repeat."""
    _n, _t, c = shape
    heads, repeat, width, value_width = (int(g.pick(2, 3)), int(g.pick(1, 2)), int(g.pick(2, 4)), 3)

    def project(out):
        y = g.op("MatMul", x, g.weight(c, out, scale=c**-0.5))
        return g.op("Add", y, g.weight(out, scale=0.2))

    query = _heads(g, project(heads * repeat * width), heads * repeat, width)
    keys = _heads(g, project(heads * width), heads, width, repeat)
    values = _heads(g, project(heads * value_width), heads, value_width, repeat)
    weights = g.op("MatMul", query, g.op("Transpose", keys, perm=[0, 1, 3, 2]))
    if g.rng.random() < 0.5:
        size = g.op("Cast", g.op("Slice", g.op("Shape", query), g.ints(-1), g.ints(10**9)), to=1)
        weights = g.op("Div", weights, g.op("Sqrt", size))
    y = g.op("MatMul", g.op("Softmax", weights, axis=-1), values)
    y = g.op("Transpose", y, perm=[0, 2, 1, 3])
    total = heads * repeat * value_width
    y = g.op("Reshape", y, g.ints(0, 0, total) if g.rng.random() < 0.5 else g.ints(0, 0, -1))
    return g.op("MatMul", y, g.weight(total, c, scale=total**-0.5)), shape


@builder(3)
def fused_attention(g, x, shape):
    """One projection to (3, heads, width), heads merged with the batch."""
    _n, t, c = shape
    heads, width = int(g.pick(2, 3)), int(g.pick(2, 4))
    y = g.op("MatMul", x, g.weight(c, 3 * heads * width, scale=c**-0.5))
    if g.rng.random() < 0.5:
        y = g.op("Transpose", g.op("Reshape", y, g.ints(0, 0, 3, heads, width)), perm=[2, 0, 3, 1, 4])
        q, k, v = (g.op("Gather", y, g.constant(np.int64(i)), axis=0) for i in range(3))
    else:
        names = [g.name("qkv") for _ in range(3)]
        g.nodes.append(helper.make_node("Split", [y], names, axis=-1, num_outputs=3, name=g.name("node")))
        q, k, v = (_heads(g, name, heads, width) for name in names)
    batch = g.op("Gather", g.op("Shape", x), g.constant(np.int64(0)))
    merged = g.op("Unsqueeze", g.op("Mul", batch, g.constant(np.int64(heads))), g.ints(0))
    target = g.op("Concat", merged, g.ints(t, width), axis=0)
    q, k, v = (g.op("Reshape", one, target) for one in (q, k, v))
    y = g.op(
        "Einsum",
        g.op("Softmax", g.op("Einsum", q, k, equation="bid,bjd->bij"), axis=-1),
        v,
        equation="bij,bjd->bid",
    )
    back = g.op("Concat", g.op("Unsqueeze", batch, g.ints(0)), g.ints(heads, t, width), axis=0)
    y = g.op("Transpose", g.op("Reshape", y, back), perm=[0, 2, 1, 3])
    y = g.op("Reshape", y, g.ints(0, t, heads * width))
    return g.op("MatMul", y, g.weight(heads * width, c, scale=0.4)), shape


@builder(3)
def multi_head_attention(g, x, shape):
    c = shape[2]
    heads, width, value_width = int(g.pick(2, 3)), 4, int(g.pick(4, 8))
    sizes = heads * width, heads * width, heads * value_width
    query, keys, values = (g.op("MatMul", x, g.weight(c, size, scale=c**-0.5)) for size in sizes)
    bias = [g.weight(sum(sizes), scale=0.2)] if g.rng.random() < 0.5 else []
    y = g.op("MultiHeadAttention", query, keys, values, *bias, num_heads=heads, domain="com.microsoft")
    return g.op("MatMul", y, g.weight(sizes[2], c, scale=sizes[2] ** -0.5)), shape


@builder(3)
def packed_attention(g, x, shape):
    c, heads = shape[2], int(g.pick(2, 3))
    sizes = (heads * 4, heads * 4, heads * int(g.pick(4, 2)))
    given = {"qkv_hidden_sizes": list(sizes)} if g.rng.random() < 0.5 or sizes[2] != sizes[0] else {}
    weight, bias = g.weight(c, sum(sizes), scale=c**-0.5), g.weight(sum(sizes), scale=0.2)
    y = g.op("Attention", x, weight, bias, num_heads=heads, domain="com.microsoft", **given)
    return g.op("MatMul", y, g.weight(sizes[2], c, scale=sizes[2] ** -0.5)), shape


@builder(3)
def standard_attention(g, x, shape):
    _n, _t, c = shape
    if g.opset < 23:
        return None
    heads, repeat = int(g.pick(2, 3)), int(g.pick(1, 2))
    sizes = heads * repeat * 4, heads * 4, heads * 6
    query, keys, values = (g.op("MatMul", x, g.weight(c, size, scale=c**-0.5)) for size in sizes)
    total = heads * repeat * 6
    if g.rng.random() < 0.5:
        y = g.op("Attention", query, keys, values, q_num_heads=heads * repeat, kv_num_heads=heads)
    else:
        query, keys, values = (
            _heads(g, one, k, w)
            for one, k, w in ((query, heads * repeat, 4), (keys, heads, 4), (values, heads, 6))
        )
        y = g.op("Transpose", g.op("Attention", query, keys, values), perm=[0, 2, 1, 3])
        y = g.op("Reshape", y, g.ints(0, 0, total))
    return g.op("MatMul", y, g.weight(total, c, scale=total**-0.5)), shape


@builder(4)
def local_response(g, x, shape):
    return g.op("LRN", x, size=int(g.pick(3, 5)), alpha=0.5, beta=0.7, bias=1.2), shape


@builder(4)
def native_group_norm(g, x, shape):
    c = shape[1]
    if g.opset < 21:
        return None
    parameters = g.near_one(c), g.weight(c, scale=0.2)
    return g.op("GroupNormalization", x, *parameters, num_groups=_groups(g, c), epsilon=1e-2), shape


@builder(3)
def rms_norm(g, x, shape):
    if g.opset < 23:
        return None
    return g.op("RMSNormalization", x, g.near_one(shape[2]), epsilon=1e-2, axis=-1), shape


@builder(4)
def fused_conv(g, x, shape):
    n, c, h, w = shape
    y = g.op(
        "FusedConv",
        x,
        g.weight(5, c, 3, 3),
        g.weight(5, scale=0.2),
        pads=[1] * 4,
        activation="Relu",
        domain="com.microsoft",
    )
    return y, (n, 5, h, w)


@builder(4)
def sequence(g, x, shape):
    n, c, h, w = shape
    if c % 2:
        return None
    parts = g.op("SplitToSequence", x, g.constant(np.int64(c // 2)), axis=1)
    first, second = (g.op("SequenceAt", parts, g.constant(np.int64(i))) for i in (0, 1))
    return g.op("Sub", first, g.op("Relu", second)), (n, c // 2, h, w)


@builder(3)
def gated(g, x, shape):
    n, t, c = shape
    if c % 2:
        return None
    a = g.op("Slice", x, g.ints(0), g.ints(c // 2), g.ints(-1))
    b = g.op("Slice", x, g.ints(c // 2), g.ints(10**9), g.ints(2))
    return g.op("Mul", a, g.op("Sigmoid", b)), (n, t, c // 2)


@builder(3)
def einsum(g, x, shape):
    n, t, c = shape
    weight = g.weight(2, c, 3, scale=c**-0.5)
    y = g.op("Einsum", x, weight, equation="ntc,hcd->nthd")
    return g.op("Reshape", y, g.ints(0, 0, 6)), (n, t, 6)


@builder(3)
def recurrent(g, x, shape):
    n, t, c = shape
    kind, hidden, directions = str(g.pick("LSTM", "GRU", "RNN")), 4, int(g.pick(1, 2))
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    y = g.op("Transpose", x, perm=[1, 0, 2])
    w = g.weight(directions, gates * hidden, c, scale=c**-0.5)
    r = g.weight(directions, gates * hidden, hidden, scale=0.5)
    b = g.weight(directions, 2 * gates * hidden, scale=0.2)
    direction = "bidirectional" if directions == 2 else "forward"
    y = g.op(kind, y, w, r, b, hidden_size=hidden, direction=direction)
    y = g.op("Transpose", y, perm=[2, 0, 1, 3])
    return g.op("Reshape", y, g.ints(0, 0, -1)), (n, t, directions * hidden)


@builder(3)
def softmax(g, x, shape):
    return g.op("Softmax", x, axis=int(g.pick(1, 2))), shape  # type: ignore[call-overload]


@builder(3)
def first_token(g, x, shape):
    return g.op("Gather", x, g.constant(np.int64(0)), axis=1), (shape[0], shape[2])


@builder(3)
def mean_token(g, x, shape):
    return g.op("ReduceMean", x, g.ints(1), keepdims=0), (shape[0], shape[2])


@builder(2)
def gemm(g, x, shape):
    n, c = shape
    out = int(g.pick(6, 8, 9))
    if g.rng.random() < 0.5:
        return g.op("Gemm", x, g.weight(out, c), g.weight(out, scale=0.3), transB=1), (n, out)
    return g.op("Gemm", x, g.weight(c, out, scale=c**-0.5), alpha=0.5), (n, out)


@builder(2)
def unit_length(g, x, shape):
    length = g.op("ReduceL2", x, g.ints(-1), keepdims=1)
    return g.op("Div", x, g.op("Add", length, g.constant(np.float32(1)))), shape


@builder(2)
def spread(g, x, shape):
    n, c = shape
    y = g.op("Unsqueeze", x, g.ints(2, 3))
    batch = g.op("Slice", g.op("Shape", x), g.ints(0), g.ints(1))
    return g.op("Expand", y, g.op("Concat", batch, g.ints(c, SIZE, SIZE), axis=0)), (n, c, SIZE, SIZE)


@builder(2)
def repeat(g, x, shape):
    n, c = shape
    y = g.op("Unsqueeze", x, g.ints(1))
    return g.op("Tile", y, g.ints(1, 4, 2)), (n, 4, 2 * c)


def build(steps: list[tuple[str, int, int]], opset: int = 18) -> onnx.ModelProto:
    """A model with one input (N, 3, 5, 5) and one output (N, 4).

    Args:
        steps: for each, the builder, which of the last values it takes, and the seed of its choices.
        opset: of the default domain.
    """
    g = Graph(opset)
    g.values.append(("x", (0, 3, SIZE, SIZE)))
    g.values.append((g.op("Conv", "x", g.weight(6, 3, 3, 3), pads=[1] * 4), (0, 6, SIZE, SIZE)))
    for name, back, seed in steps:
        g.rng = np.random.default_rng(seed)
        value, shape = g.values[max(1, len(g.values) - 1 - back % 3)]
        made = BUILDERS[name](g, value, shape)
        if made is not None and np.prod(made[1][1:]) <= 2000:
            g.values.append(made)
    y, shape = g.values[-1]
    if len(shape) > 2:
        y, shape = g.op("Flatten", y), (0, int(np.prod(shape[1:])))
    g.op("Gemm", y, g.weight(4, shape[1]), transB=1)
    g.nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        g.nodes,
        "random",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        g.initializers,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
