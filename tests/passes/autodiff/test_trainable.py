"""Which constants training changes."""

from __future__ import annotations

import numpy as np

from obs_onnx.passes.autodiff.trainable import trainable
from obs_onnx.passes.canonical.canonicalize import canonicalize, plain


def ones(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: np.ones(shape, np.float32) for name, shape in shapes.items()}


def test_weights_and_biases_of_layers_scales_and_shifts_and_nothing_else(make_model) -> None:
    model = make_model(
        """g (float[N,3,8] x, int64[N] i) => (float[N,4] y) {
            c = Conv(x, w1, b1)  n = BatchNormalization (c, s, t, m, v)  r = PRelu(n, slope)
            p = GlobalAveragePool(r)  f = Flatten(p)  l = LayerNormalization <axis = -1> (f, ls, lb)
            k = Mul(l, mask)  e = Gather(table, i)  a = Add(k, e)  h = MatMul(a, w2)  g = Add(h, b2)
            y = Gemm(g, w3, b3)
        }""",
        ones(
            w1=(5, 3, 3), b1=(5,), s=(5,), t=(5,), m=(5,), v=(5,), slope=(5, 1), ls=(5,), lb=(5,), mask=(5,),
            table=(7, 5), w2=(5, 6), b2=(6,), w3=(6, 4), b3=(4,),
        ),
    )  # fmt: skip
    found = trainable(plain(model))
    assert set(found) == {"w1", "b1", "s", "t", "slope", "ls", "lb", "w2", "b2", "w3", "b3"}
    assert len(found) == len(set(found))


def test_gates_of_recurrent_operators(make_model) -> None:
    text = "g (float[T,N,4] x) => (float[1,N,6] y) { z, y = GRU <hidden_size = 6> (x, w, r, b) }"
    model = make_model(text, ones(w=(1, 18, 4), r=(1, 18, 6), b=(1, 36)))
    assert set(trainable(canonicalize(model))) == {"w", "r", "b"}


def test_a_shared_weight_is_named_once_and_one_that_comes_out_not_at_all(make_model) -> None:
    shared = "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w)  y = MatMul(a, w) }"
    assert trainable(canonicalize(make_model(shared, ones(w=(4, 4))))) == ["w"]
    given = "g (float[N,4] x) => (float[N,4] y, float[4] s) { y = LayerNormalization <axis = -1> (x, s, b) }"
    assert trainable(canonicalize(make_model(given, ones(s=(4,), b=(4,))))) == ["b"]
