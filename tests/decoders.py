"""Small random decoders in tests, as exporters write them: with caches, packed projections, rotary inside."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from nets import Net
from onnx import TensorProto, helper, numpy_helper

WORDS, WIDTH, HEADS, SHARED, HEAD, UNITS, LAYERS, LONGEST = 64, 32, 6, 3, 16, 24, 2, 64
"""Sizes: vocabulary, residual, heads of queries, of keys and values, width of a head, FFN, layers, tokens."""

TRAINED_HEAD = 32
"""Width of a head of the trained decoder, which has a name in its interface."""

FORMS = ("grouped", "packed", "standard", "packed standard", "multi head", "fused")
"""GroupQueryAttention of three inputs, of one; Attention of opset 23, behind one projection as well; the
operators of the transformer optimizer."""


def _weight(g: Net, name: str, *shape: int, fan: int = 0) -> str:
    return g.weight(name, *shape, fan_in=2 * (fan or shape[0]))


def _matmul(g: Net, x: str, name: str, rows: int, columns: int) -> str:
    return g.op("MatMul", x, _weight(g, f"{name}.weight", rows, columns), name=name)


def decoder(
    form: str = "packed",
    cache: bool = True,
    sinks: bool = False,
    seed: int = 0,
    **attributes: object,
) -> onnx.ModelProto:
    """A decoder of one of :data:`FORMS`; ``attributes`` are those of its attention."""
    g = Net(seed)
    g.constant("one", [1], np.int64)
    g.op("ReduceSum", "attention_mask", "one", name="counts", keepdims=0)
    g.op("Sub", "counts", "one", name="last")
    g.op("Cast", "last", name="seqlens_k", to=TensorProto.INT32)
    g.op("Shape", "attention_mask", name="mask_shape")
    g.op("Gather", "mask_shape", g.constant("place", 1, np.int64), name="length")
    g.op("Cast", "length", name="total", to=TensorProto.INT32)
    angles = np.arange(LONGEST)[:, None] / 100 ** (np.arange(HEAD // 2) / (HEAD // 2))
    g.constant("cos_cache", np.cos(angles))
    g.constant("sin_cache", np.sin(angles))
    x = g.op("Gather", _weight(g, "embed.weight", WORDS, WIDTH, fan=1), "input_ids", name="embedded")
    for i in range(LAYERS):
        y = g.op(
            "SimplifiedLayerNormalization", x, _scale(g, f"n{i}.weight"), name=f"n{i}", axis=-1, epsilon=1e-5
        )
        y = _attention(g, form, i, y, cache, sinks, attributes)
        y = _matmul(g, y, f"o{i}", HEADS * HEAD, WIDTH)
        scale, names = _scale(g, f"m{i}.weight"), [f"m{i}", "", "", f"x{i}"]
        g.op(
            "SkipSimplifiedLayerNormalization", x, y, scale, name=names, domain="com.microsoft", epsilon=1e-5
        )
        gate, up = (_matmul(g, f"m{i}", f"{name}{i}", WIDTH, UNITS) for name in ("gate", "up"))
        gate = g.op("Mul", gate, g.op("Sigmoid", gate, name=f"s{i}"), name=f"silu{i}")
        y = _matmul(g, g.op("Mul", gate, up, name=f"h{i}"), f"down{i}", UNITS, WIDTH)
        x = g.op("Add", f"x{i}", y, name=f"r{i}")
    y = g.op("SimplifiedLayerNormalization", x, _scale(g, "n.weight"), name="n", axis=-1, epsilon=1e-5)
    _matmul(g, y, "logits", WIDTH, WORDS)
    return _model(g, form, cache)


def _scale(g: Net, name: str) -> str:
    return g.constant(name, g.rng.uniform(0.7, 1.3, WIDTH))


def _shared(form: str) -> int:
    return HEADS if form in ("multi head", "fused") else SHARED


def _attention(
    g: Net, form: str, i: int, x: str, cache: bool, sinks: bool, attributes: Mapping[str, object]
) -> str:
    shared = _shared(form)
    past = [f"past_key_values.{i}.{kind}" for kind in ("key", "value")] if cache else ["", ""]
    outputs = [f"a{i}", *(f"present.{i}.{kind}" for kind in ("key", "value"))] if cache else [f"a{i}"]
    sizes = [HEADS * HEAD, shared * HEAD, shared * HEAD]
    if form == "fused":
        bias = _weight(g, f"qkv{i}.bias", sum(sizes), fan=9)
        inputs = [x, _weight(g, f"qkv{i}.weight", WIDTH, sum(sizes)), bias, "", f"past_{i}" if cache else ""]
        outputs = [f"a{i}", f"present_{i}"] if cache else [f"a{i}"]
        return g.op(
            "Attention", *inputs, name=outputs, domain="com.microsoft", num_heads=HEADS, unidirectional=1
        )
    if "packed" in form:
        given = [_matmul(g, x, f"qkv{i}", WIDTH, sum(sizes)), "", ""]
    else:
        given = [_matmul(g, x, f"{name}{i}", WIDTH, n) for name, n in zip("qkv", sizes, strict=True)]
    if form in ("grouped", "packed"):
        counts = {"num_heads": HEADS, "kv_num_heads": SHARED, "do_rotary": 1, "scale": HEAD**-0.5}
        inputs = [*given, *past, "seqlens_k", "total", "cos_cache", "sin_cache"]
        inputs += ["", "", _weight(g, f"sinks{i}", HEADS, fan=1)] if sinks else []
        outputs = outputs if cache else [*outputs, f"present.{i}.key", f"present.{i}.value"]
        return g.op(
            "GroupQueryAttention", *inputs, name=outputs, domain="com.microsoft", **{**counts, **attributes}
        )
    if form == "multi head":
        mask = ["", "", "", *past] if cache else []
        return g.op(
            "MultiHeadAttention",
            *given,
            *mask,
            name=outputs,
            domain="com.microsoft",
            num_heads=HEADS,
            unidirectional=1,
        )
    if "packed" in form:
        names = [f"{name}{i}" for name in "qkv"]
        g.op("Split", given[0], g.constant(f"sizes{i}", sizes, np.int64), name=names, axis=-1)
        given = names
    counts = {"q_num_heads": HEADS, "kv_num_heads": SHARED, "is_causal": 1}
    return g.op("Attention", *given, "", *past, name=outputs, **{**counts, **attributes})


def _model(g: Net, form: str, cache: bool) -> onnx.ModelProto:
    batch, shared = "batch_size", _shared(form)
    inputs = [("input_ids", TensorProto.INT64, [batch, "sequence_length"])]
    if form in ("grouped", "packed"):
        inputs.append(("attention_mask", TensorProto.INT64, [batch, "total_sequence_length"]))
    outputs = [("logits", TensorProto.FLOAT, [batch, "sequence_length", WORDS])]
    for i in range(LAYERS) if cache else ():
        pairs = [(f"past_key_values.{i}.{kind}", f"present.{i}.{kind}") for kind in ("key", "value")]
        for past, present in [(f"past_{i}", f"present_{i}")] if form == "fused" else pairs:
            for name, where, length in ((past, inputs, "past"), (present, outputs, "total")):
                shape = [batch, shared, f"{length}_sequence_length", HEAD]
                where.append((name, TensorProto.FLOAT, [2, *shape] if form == "fused" else shape))
    needed, nodes = {name for name, *_ in outputs}, []
    for node in reversed(g.nodes):
        if needed & set(node.output):
            nodes.insert(0, node)
            needed |= set(node.input)
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info(*one) for one in inputs],
        [helper.make_tensor_value_info(*one) for one in outputs],
        [numpy_helper.from_array(array, name) for name, array in g.tensors.items() if name in needed],
    )
    opsets = [
        helper.make_opsetid("", 23 if "standard" in form else 21),
        helper.make_opsetid("com.microsoft", 1),
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def session(model: onnx.ModelProto | ir.Model) -> ort.InferenceSession:
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def feed(
    given: ort.InferenceSession, ids: np.ndarray, past: Mapping[str, np.ndarray] | int = 0, seed: int = 0
) -> dict[str, np.ndarray]:
    """What ``given`` takes for tokens, behind caches by name, or behind random ones of some length."""
    rng, found, length = np.random.default_rng(seed), {"input_ids": ids}, 0
    for one in given.get_inputs():
        if one.name.startswith("past"):
            lead, tail = one.shape[:-4], one.shape[-3:]
            if isinstance(past, int):
                width = tail[2] if isinstance(tail[2], int) else TRAINED_HEAD
                shape = (*lead, len(ids), tail[0], past, width)
                found[one.name] = 0.5 * rng.standard_normal(shape).astype(np.float32)
            else:
                found[one.name] = past[one.name]
            length = found[one.name].shape[-2]
    if any(one.name == "attention_mask" for one in given.get_inputs()):
        found["attention_mask"] = np.ones((len(ids), ids.shape[1] + length), np.int64)
    return found


def step(
    given: ort.InferenceSession, ids: np.ndarray, past: Mapping[str, np.ndarray] | int = 0
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits, and the caches for the next step."""
    found = given.run(None, feed(given, ids, past))
    names = [one.name for one in given.get_outputs()]
    pasts = [one.name for one in given.get_inputs() if one.name.startswith("past")]
    logits = found[names.index("logits")]
    return logits, dict(
        zip(pasts, [y for y, name in zip(found, names, strict=True) if name != "logits"], strict=True)
    )


def generated(given: ort.InferenceSession, start: np.ndarray, count: int, cached: bool) -> np.ndarray:
    """Most probable tokens, one by one, with the cache or from the whole text each time."""
    ids, (logits, past) = start, step(given, start)
    for _ in range(count):
        new = logits[:, -1:].argmax(-1)
        ids = np.concatenate([ids, new], axis=1)
        logits, past = step(given, new, past) if cached else step(given, ids)
    return ids[:, start.shape[1] :]
