"""Small graphs that say the size of their batch inside, as exporters trace them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from nets import build_model

Arrays = Mapping[str, np.ndarray]
Built = tuple[str, Arrays]


def _normal(seed: int, *shape: int) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) / max(1, shape[0]) ** 0.5).astype(np.float32)


def flattened(n: int) -> Built:
    """A convolution, and layers behind a Reshape to [n, 32]."""
    text = f"""g (float[{n},3,2,2] x) => (float[{n},5] y) {{
        c = Conv(x, w)  r = Relu(c)  f = Reshape(r, to)
        h = MatMul(f, w1)  s = Relu(h)  y = MatMul(s, w2) }}"""
    weights = {"w": _normal(0, 8, 3, 1, 1), "w1": _normal(1, 32, 12), "w2": _normal(2, 12, 5)}
    return text, {**weights, "to": np.array([n, 32])}


def heads_first(n: int) -> Built:
    """Attention as torch.nn.MultiheadAttention is traced, over (tokens, n * heads, width)."""
    text = f"""g (float[{n},5,8] x) => (float[{n},5,3] y) {{
        t = Transpose <perm = [1,0,2]> (x)  q0 = MatMul(t, wq)  v0 = MatMul(t, wv)
        q1 = Reshape(q0, split)  v1 = Reshape(v0, split)
        q = Transpose <perm = [1,0,2]> (q1)  v = Transpose <perm = [1,0,2]> (v1)
        k = Transpose <perm = [0,2,1]> (q)  a = MatMul(q, k)  p = Softmax <axis = -1> (a)  o = MatMul(p, v)
        o1 = Transpose <perm = [1,0,2]> (o)  o2 = Reshape(o1, flat)  o3 = Gemm(o2, wo)  o4 = Reshape(o3, back)
        z = Transpose <perm = [1,0,2]> (o4)  y = MatMul(z, w) }}"""
    weights = {"wq": _normal(0, 8, 8), "wv": _normal(1, 8, 8), "wo": _normal(2, 8, 8), "w": _normal(3, 8, 3)}
    targets = {"split": [5, n * 4, 2], "flat": [5 * n, 8], "back": [5, n, 8]}
    return text, {**weights, **{name: np.array(target) for name, target in targets.items()}}


def class_token(n: int) -> Built:
    """A token from a constant of shape (n, 1, width) in front of the patches."""
    text = f"""g (float[{n},6,4] x) => (float[{n},3] y) {{
        e = MatMul(x, w0)  t = Concat <axis = 1> (token, e)  s = Softmax <axis = 1> (t)  m = Mul(s, t)
        first = Slice(m, zero, one, one)  f = Reshape(first, to)  y = MatMul(f, w) }}"""
    token = np.repeat(_normal(2, 1, 1, 8), n, 0)
    weights = {"w0": _normal(0, 4, 8), "w": _normal(1, 8, 3), "token": token}
    return text, {**weights, "zero": np.array([0]), "one": np.array([1]), "to": np.array([n, 8])}


def detector(n: int) -> Built:
    """Two maps whose positions are laid side by side by Reshape to [n, 7, -1]."""
    text = f"""g (float[{n},3,4,4] x) => (float[{n},7,20] y) {{
        a = Conv(x, wa)  b = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a)
        c = Conv(a, wc)  d = Conv(b, wc)  e = Reshape(c, to)  f = Reshape(d, to)
        y = Concat <axis = 2> (e, f) }}"""
    return text, {"wa": _normal(0, 8, 3, 1, 1), "wc": _normal(1, 7, 8, 1, 1), "to": np.array([n, 7, -1])}


def recurrent(n: int) -> Built:
    """An LSTM over (time, n, features) with first states of its own."""
    text = f"""g (float[6,{n},4] x) => (float[6,{n},3] y, float[1,{n},5] last) {{
        o, last, c = LSTM <hidden_size = 5> (x, W, R, B, , h0, c0)
        s = Squeeze(o, one)  f = Reshape(s, to)
        a = MatMul(f, w1)  r = Relu(a)  y = MatMul(r, w) }}"""
    weights = {
        "W": _normal(0, 1, 20, 4),
        "R": _normal(1, 1, 20, 5),
        "B": _normal(2, 1, 40),
        "w1": _normal(3, 5, 7),
        "w": _normal(6, 7, 3),
    }
    states = {name: np.repeat(_normal(seed, 1, 1, 5), n, 1) for seed, name in enumerate(("h0", "c0"), 4)}
    return text, {**weights, **states, "one": np.array([1]), "to": np.array([6, n, 5])}


def last_state(n: int) -> Built:
    """A classifier of the last state of a GRU, which begins with zeros for every sample."""
    text = f"""g (float[7,{n},5] x) => (float[{n},3] y) {{
        o, last = GRU <hidden_size = 8> (x, W, R, B, , h0)
        s = Squeeze(last, zero)  y = MatMul(s, w) }}"""
    weights = {"W": _normal(0, 1, 24, 5), "R": _normal(1, 1, 24, 8) / 5, "B": _normal(2, 1, 48)}
    first = {"h0": np.zeros((1, n, 8), np.float32)}
    return text, {**weights, **first, "w": _normal(3, 8, 3), "zero": np.array([0])}


def one_state(n: int) -> Built:
    """An LSTM both of whose first states are one constant."""
    text = f"""g (float[7,{n},5] x) => (float[{n},3] y) {{
        o, last, c = LSTM <hidden_size = 8> (x, W, R, B, , first, first)
        s = Squeeze(last, zero)  y = MatMul(s, w) }}"""
    weights = {"W": _normal(0, 1, 32, 5), "R": _normal(1, 1, 32, 8) / 5, "B": _normal(2, 1, 64)}
    first = {"first": np.repeat(_normal(4, 1, 1, 8), n, 1)}
    return text, {**weights, **first, "w": _normal(3, 8, 3), "zero": np.array([0])}


def with_table(n: int) -> Built:
    """A second input, a table that all samples share."""
    text = f"""g (float[{n},4] x, float[6,3] table) => (float[{n},6] y) {{
        a = MatMul(x, w0)  r = Relu(a)  f = Reshape(r, to)  b = MatMul(table, w1)
        t = Transpose <perm = [1,0]> (b)  y = MatMul(f, t) }}"""
    return text, {"w0": _normal(0, 4, 8), "w1": _normal(1, 3, 8), "to": np.array([n, 8])}


def open_sides(n: int) -> Built:
    """Height and width are free, the number of samples is not."""
    text = f"""g (float[{n},3,H,W] x) => (float[{n},6,P] y) {{
        a = Conv <strides = [2,2], kernel_shape = [1,1]> (x, w0)  r = Relu(a)
        b = Conv(r, w1)  y = Reshape(b, to) }}"""
    return text, {"w0": _normal(0, 8, 3, 1, 1), "w1": _normal(1, 6, 8, 1, 1), "to": np.array([n, 6, -1])}


BUILT = {
    one.__name__: one
    for one in (
        flattened,
        heads_first,
        class_token,
        detector,
        recurrent,
        last_state,
        one_state,
        with_table,
        open_sides,
    )
}


def fixed(name: str, n: int, **options: int) -> onnx.ModelProto:
    """A graph of this module for ``n`` samples."""
    return build_model(*BUILT[name](n), **options)


def feed_of(proto: onnx.ModelProto, seed: int) -> dict[str, np.ndarray]:
    """Random inputs; free sizes are 6, and a table is the same for all seeds."""
    listed = {tensor.name for tensor in proto.graph.initializer}
    shapes = {
        value.name: [dim.dim_value or 6 for dim in value.type.tensor_type.shape.dim]
        for value in proto.graph.input
        if value.name not in listed
    }
    return {name: _normal(0 if name == "table" else seed, *shape) for name, shape in shapes.items()}
