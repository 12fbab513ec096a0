"""Models that are odd but right go through: a false alarm is a fault as well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from nets import build_model
from onnx import TensorProto, helper, numpy_helper

import obs_onnx

Change = Callable[[onnx.ModelProto], None]

BODY = "h = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(h)  y = Conv(r, w2)"


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (4, 8, 1, 1)}
    return {name: rng.standard_normal(shape).astype(np.float32) / 5 for name, shape in shapes.items()}


def model(
    body: str = BODY,
    inputs: str = "float[N, 3, 5, 5] x",
    outputs: str = "float[N, 4, 5, 5] y",
    change: Change = lambda proto: None,
    opset: int = 18,
    ir_version: int = 10,
    **more: object,
) -> onnx.ModelProto:
    """A small network of convolutions with something odd about it."""
    text = f"g ({inputs}) => ({outputs}) {{ {body} }}"
    proto = build_model(text, {**weights(), **more}, opset=opset, ir_version=ir_version)
    for number, node in enumerate(proto.graph.node):
        node.name = f"n{number}"
    change(proto)
    return proto


def initializers_are_inputs(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))


def declared(size: int) -> Change:
    def change(proto: onnx.ModelProto) -> None:
        for value in (*proto.graph.input, *proto.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = size

    return change


def renamed(to: Callable[[str], str]) -> Change:
    """All names of nodes and of values inside the graph."""

    def change(proto: onnx.ModelProto) -> None:
        for node in proto.graph.node:
            node.name = to(node.name)
            node.input[:] = [to(name) if name not in ("", "x") else name for name in node.input]
            node.output[:] = [to(name) if name != "y" else name for name in node.output]
        for tensor in proto.graph.initializer:
            tensor.name = to(tensor.name)

    return change


def without_names(proto: onnx.ModelProto) -> None:
    proto.graph.name = ""
    for node in proto.graph.node:
        node.name = ""


def unsorted_nodes(proto: onnx.ModelProto) -> None:
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def value_infos(proto: onnx.ModelProto) -> None:
    """One without a type, one with the batch of a trace, one of a value that does not exist."""
    bare = onnx.ValueInfoProto(name="h")
    bare.type.tensor_type.shape.dim.add().dim_value = 3
    proto.graph.value_info.append(bare)
    for name in ("r", "nowhere"):
        proto.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 5, 5]))


def hostile_texts(proto: onnx.ModelProto) -> None:
    proto.doc_string = proto.graph.doc_string = proto.producer_name = "\x1b]0;x\x07\u202e"
    proto.metadata_props.add(key="a\nb", value="\x00")
    for node in proto.graph.node:
        node.doc_string = "[red]x[/red]"


def named_domain(proto: onnx.ModelProto) -> None:
    for node in proto.graph.node:
        node.domain = "ai.onnx"


def from_nothing(tensor: np.ndarray) -> Change:
    """A further output that is an initializer."""

    def change(proto: onnx.ModelProto) -> None:
        proto.graph.initializer.append(numpy_helper.from_array(tensor, "k"))
        kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
        proto.graph.output.append(helper.make_tensor_value_info("k", kind, tensor.shape))

    return change


SCOPES = """
    h = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(h)  q = Conv(r, w2)  c = Constant<value = bool {1}>()
    y = If(c)<
        then_branch = t () => (float[N, 4, 5, 5] a) { z = Neg(q)  a = Relu(z) },
        else_branch = e () => (float[N, 4, 5, 5] a) { z = Abs(q)  a = Relu(z) }
    >
"""
EMPTY = f"{BODY.replace('y =', 'q =')}  e = Concat<axis=0>(none, some)  y = Mul(q, e)"
MASKED = f"{BODY.replace('y =', 'q =')}  y = Where(mask, q, low)"
ODD: dict[str, Callable[[], onnx.ModelProto]] = {
    "IR 3, initializers are inputs": lambda: model(change=initializers_are_inputs, ir_version=3),
    "IR 3, initializers are no inputs": lambda: model(ir_version=3),
    "IR 10, initializers are inputs": lambda: model(change=initializers_are_inputs),
    "batch of -1": lambda: model(change=declared(-1)),
    "fixed batch": lambda: model(change=declared(4)),
    "opset 7": lambda: model(opset=7, ir_version=3, change=initializers_are_inputs),
    "no names": lambda: model(change=without_names),
    "brackets": lambda: model(change=renamed(lambda name: f"[bold]{name}[/bold]")),
    "spaces": lambda: model(change=renamed(lambda name: f" {name} / x.y:0 ")),
    "unicode": lambda: model(change=renamed(lambda name: f"層{name}ß🙂")),
    "escapes": lambda: model(change=renamed(lambda name: f"\x1b[2J{name}\n\u202e")),
    "dollars": lambda: model(change=renamed(lambda name: f"_${name}_1$")),
    "texts": lambda: model(change=hostile_texts),
    "same names in two scopes": lambda: model(SCOPES),
    "unused initializer": lambda: model(k=np.ones(3, np.float32)),
    "unused input": lambda: model(inputs="float[N, 3, 5, 5] x, float[N, 2] z"),
    "dead nodes": lambda: model(f"{BODY}  d = Conv(r, w2)  f = Neg(d)"),
    "unsorted": lambda: model(change=unsorted_nodes),
    "value infos": lambda: model(change=value_infos),
    "output without a type": lambda: model(change=lambda proto: proto.graph.output[0].ClearField("type")),
    "named domain": lambda: model(change=named_domain),
    "input is an output": lambda: model(outputs="float[N, 4, 5, 5] y, float[N, 3, 5, 5] x"),
    "initializer is an output": lambda: model(change=from_nothing(np.ones(3, np.float32))),
    "empty optional inputs": lambda: model(BODY.replace("Relu(h)", 'Clip(h, "", top)'), top=np.float32(6)),
    "trailing empty inputs": lambda: model(BODY.replace("Relu(h)", 'Clip(h, "", "")')),
    "constant of size zero": lambda: model(EMPTY, none=np.ones(0, np.float32), some=np.ones(5, np.float32)),
    "scalar input": lambda: model(
        BODY.replace("y =", "q =") + " y = Mul(q, s)",
        inputs="float[2, 3, 5, 5] x, float s",
        outputs="float[2, 4, 5, 5] y",
    ),
    "scalar output": lambda: model(
        BODY.replace("y =", "q =") + " y = ReduceSum<keepdims=0>(q)", outputs="float y"
    ),
    "only integers come out": lambda: model(
        BODY.replace("y =", "q =") + " y = ArgMax<axis=1>(q)", outputs="int64[N, 1, 5, 5] y"
    ),
    "masked scores": lambda: model(MASKED, mask=np.arange(5) > 0, low=np.array(-np.inf, np.float32)),
    "maximum of integers": lambda: model(
        """h = Conv<pads=[1,1,1,1]>(x, w1, b1)  r = Relu(h)  q = Conv(r, w2)
        t = Mul(h, ten)  i = Cast<to=6>(t)  m = ReduceMax(i, axes)  f = Cast<to=1>(m)  y = Add(q, f)""",
        ten=np.float32(10),
        axes=np.array([1]),
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_models_go_through(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(ODD[name]().SerializeToString())
    assert obs_onnx.inspect(path).layers
    result = obs_onnx.prune(
        path,
        tmp_path / "m.pruned.onnx",
        calib="random:48",
        targets={"macs": 0.7},
        round_to=1,
        effort="quick",
        latency=False,
        threads=1,
    )
    assert result.report.after.macs < result.report.before.macs
    assert (tmp_path / "m.pruned.onnx").exists()
