"""Small networks of common families with random weights, and data of few common factors to calibrate them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper


def build_model(
    text: str, initializers: Mapping[str, Any] | None = None, *, opset: int = 18, ir_version: int = 10
):
    """Model proto from the body of a graph in ONNX text form, with ``initializers`` added by name."""
    head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.microsoft" : 1]>\n'
    proto = onnx.parser.parse_model(text if text.lstrip().startswith("<") else head + text)
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in (initializers or {}).items()
    )
    return proto


def data(seed: int, samples: int, *shape: int, factors: int = 6) -> np.ndarray:
    """Samples that are mostly mixtures of a few factors, the same ones for every seed."""
    size = int(np.prod(shape))
    mixing = np.random.default_rng(99).standard_normal((factors, size))
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, factors)) @ mixing / factors**0.5
    return (x + 0.2 * rng.standard_normal((samples, size))).reshape(samples, *shape).astype(np.float32)


class Net:
    """Nodes and initializers of a model with a free batch, built by name."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, np.ndarray] = {}

    def weight(self, name: str, *shape: int, fan_in: int | None = None, scale: float = 1.0) -> str:
        fan_in = int(np.prod(shape[1:])) if fan_in is None else fan_in
        array = self.rng.standard_normal(shape) * scale * (2 / max(fan_in, 1)) ** 0.5
        self.tensors[name] = array.astype(np.float32)
        return name

    def constant(self, name: str, values: object, dtype: type = np.float32) -> str:
        self.tensors[name] = np.asarray(values, dtype)
        return name

    def op(self, op_type: str, *inputs: str, name: str | Sequence[str] = "", **attributes: object) -> str:
        """The first output of a new node, whose outputs have one name or several."""
        outputs = [name or f"v{len(self.nodes)}"] if isinstance(name, str) else list(name)
        node = helper.make_node(op_type, inputs, outputs, name=f"{op_type}_{outputs[0]}", **attributes)
        self.nodes.append(node)
        return outputs[0]

    def conv(self, x: str, name: str, o: int, i: int, k: int = 3, group: int = 1, stride: int = 1) -> str:
        weight = self.weight(f"{name}.weight", o, i // group, k, k)
        bias = self.weight(f"{name}.bias", o, fan_in=200)
        pads = {"pads": [k // 2] * 4, "strides": [stride] * 2, "kernel_shape": [k, k]}
        return self.op("Conv", x, weight, bias, name=name, group=group, **pads)

    def batch_norm(self, x: str, name: str, c: int) -> str:
        self.tensors[f"{name}.scale"] = self.rng.uniform(0.5, 1.5, c).astype(np.float32)
        self.tensors[f"{name}.shift"] = self.rng.normal(0, 0.2, c).astype(np.float32)
        self.tensors[f"{name}.mean"] = self.rng.normal(0, 0.2, c).astype(np.float32)
        self.tensors[f"{name}.var"] = self.rng.uniform(0.5, 1.5, c).astype(np.float32)
        names = [f"{name}.{part}" for part in ("scale", "shift", "mean", "var")]
        return self.op("BatchNormalization", x, *names)

    def dense(self, x: str, name: str, i: int, o: int) -> str:
        """Gemm with weights stored as rows of outputs."""
        weight, bias = self.weight(f"{name}.weight", o, i), self.weight(f"{name}.bias", o, fan_in=200)
        return self.op("Gemm", x, weight, bias, name=name, transB=1)

    def pooled(self, x: str) -> str:
        return self.op("Flatten", self.op("GlobalAveragePool", x))

    def proto(self, inputs: dict[str, list[int]], outputs: dict[str, list[int]], **options: object):
        """The model; the batch is free unless ``batch`` says otherwise."""
        batch, opset = options.get("batch", "batch"), int(options.get("opset", 18))
        types = {"ids": TensorProto.INT64}
        graph = helper.make_graph(
            self.nodes,
            "net",
            [
                helper.make_tensor_value_info(name, types.get(name, TensorProto.FLOAT), [batch, *shape])
                for name, shape in inputs.items()
            ],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
                for name, shape in outputs.items()
            ],
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.checker.check_model(proto, full_check=True)
        return proto


def mlp(sizes: tuple[int, ...] = (12, 32, 24, 5)) -> onnx.ModelProto:
    """Gemm and Relu; layers fc1, fc2 ..."""
    net, x = Net(1), "x"
    for number, (i, o) in enumerate(itertools.pairwise(sizes), 1):
        x = net.dense(x, f"fc{number}", i, o)
        x = (
            net.op("Relu", x, name=f"h{number}")
            if number < len(sizes) - 1
            else net.op("Identity", x, name="y")
        )
    return net.proto({"x": [sizes[0]]}, {"y": [sizes[-1]]})


def residual() -> onnx.ModelProto:
    """Two residual blocks with BatchNormalization, the second one strided with a convolution as its skip."""
    net = Net(2)
    x = net.op("Relu", net.batch_norm(net.conv("x", "stem", 12, 3), "stem.bn", 12))
    y = net.op("Relu", net.batch_norm(net.conv(x, "a1", 16, 12), "a1.bn", 16))
    y = net.batch_norm(net.conv(y, "a2", 12, 16), "a2.bn", 12)
    x = net.op("Relu", net.op("Add", y, x))
    y = net.op("Relu", net.batch_norm(net.conv(x, "b1", 20, 12, stride=2), "b1.bn", 20))
    y = net.batch_norm(net.conv(y, "b2", 16, 20), "b2.bn", 16)
    skip = net.batch_norm(net.conv(x, "skip", 16, 12, k=1, stride=2), "skip.bn", 16)
    x = net.op("Relu", net.op("Add", y, skip))
    net.op("Identity", net.dense(net.pooled(x), "head", 16, 6), name="y")
    return net.proto({"x": [3, 8, 8]}, {"y": [6]})


def mobile() -> onnx.ModelProto:
    """An inverted residual: expansion, depthwise convolution, squeeze and excitation, projection."""
    net = Net(3)
    x = net.op("HardSwish", net.conv("x", "stem", 12, 3, stride=2))
    y = net.op("HardSwish", net.conv(x, "expand", 24, 12, k=1))
    y = net.op("HardSwish", net.conv(y, "depthwise", 24, 24, group=24))
    s = net.op("Relu", net.conv(net.op("GlobalAveragePool", y), "squeeze", 8, 24, k=1))
    s = net.op("HardSigmoid", net.conv(s, "excite", 24, 8, k=1))
    y = net.conv(net.op("Mul", y, s), "project", 12, 24, k=1)
    net.op("Identity", net.dense(net.pooled(net.op("Add", x, y)), "head", 12, 6), name="y")
    return net.proto({"x": [3, 8, 8]}, {"y": [6]})


def transformer(tokens: int = 6, width: int = 24, heads: int = 4) -> onnx.ModelProto:
    """A projection of tokens, one pre-norm block with attention of several heads and Gelu, mean, head."""
    net = Net(4)

    def linear(x: str, name: str, i: int, o: int) -> str:
        y = net.op("MatMul", x, net.weight(f"{name}.weight", i, o, fan_in=i))
        return net.op("Add", y, net.weight(f"{name}.bias", o, fan_in=200), name=name)

    def norm(x: str, name: str) -> str:
        net.tensors[f"{name}.scale"] = net.rng.uniform(0.5, 1.5, width).astype(np.float32)
        net.tensors[f"{name}.shift"] = net.rng.normal(0, 0.2, width).astype(np.float32)
        return net.op("LayerNormalization", x, f"{name}.scale", f"{name}.shift", axis=-1)

    per_head = width // heads
    net.constant("split", [0, tokens, heads, per_head], np.int64)
    net.constant("merge", [0, tokens, width], np.int64)
    net.constant("root", per_head**-0.5)
    x = linear("x", "embed", 10, width)
    n = norm(x, "norm1")
    parts = {}
    for part, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        split = net.op("Reshape", linear(n, part, width, width), "split")
        parts[part] = net.op("Transpose", split, perm=perm)
    scores = net.op("Mul", net.op("MatMul", parts["q"], parts["k"]), "root")
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), parts["v"])
    merged = net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), "merge")
    x = net.op("Add", x, linear(merged, "out", width, width))
    h = linear(norm(x, "norm2"), "up", width, 2 * width)
    net.constant("two", 2**0.5)
    net.constant("one", 1.0)
    net.constant("half", 0.5)
    gelu = net.op("Mul", h, net.op("Add", net.op("Erf", net.op("Div", h, "two")), "one"))
    x = net.op("Add", x, linear(net.op("Mul", gelu, "half"), "down", 2 * width, width))
    mean = net.op("ReduceMean", x, net.constant("axes", [1], np.int64), keepdims=0)
    net.op("Identity", net.dense(mean, "head", width, 6), name="y")
    return net.proto({"x": [tokens, 10]}, {"y": [6]})


def concatenated() -> onnx.ModelProto:
    """Dense concatenation: every layer reads all that came before."""
    net, width = Net(5), 8
    x = net.op("Relu", net.conv("x", "stem", 8, 3))
    for number in (1, 2, 3):
        n = net.op("Relu", net.batch_norm(x, f"bn{number}", width))
        x = net.op("Concat", x, net.conv(n, f"grow{number}", 8, width), axis=1)
        width += 8
    net.op("Identity", net.dense(net.pooled(net.op("Relu", x)), "head", width, 6), name="y")
    return net.proto({"x": [3, 6, 6]}, {"y": [6]})


def grouped() -> onnx.ModelProto:
    """A bottleneck around a convolution of four groups."""
    net = Net(6)
    x = net.op("Relu", net.conv("x", "stem", 16, 3))
    y = net.op("Relu", net.conv(x, "reduce", 24, 16, k=1))
    y = net.op("Relu", net.conv(y, "cardinal", 24, 24, group=4))
    x = net.op("Relu", net.op("Add", net.conv(y, "expand", 16, 24, k=1), x))
    net.op("Identity", net.dense(net.pooled(x), "head", 16, 6), name="y")
    return net.proto({"x": [3, 6, 6]}, {"y": [6]})


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "mlp": mlp,
    "residual": residual,
    "mobile": mobile,
    "transformer": transformer,
    "concatenated": concatenated,
    "grouped": grouped,
}


def shapes_of(proto: onnx.ModelProto, samples: int) -> dict[str, tuple[int, ...]]:
    """Shapes of all values by ONNX's own inference, with a batch of so many samples."""
    fixed = onnx.ModelProto.FromString(proto.SerializeToString())
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = samples
    del fixed.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(fixed, strict_mode=True, data_prop=True).graph
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return shapes | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}


def macs(proto: onnx.ModelProto) -> int:
    """Multiply-accumulates of one sample in convolutions and matrix products, counted from shapes."""
    shapes, total = shapes_of(proto, 1), 0
    for node in proto.graph.node:
        size = int(np.prod(shapes[node.output[0]]))
        if node.op_type == "Conv":
            total += size * int(np.prod(shapes[node.input[1]][1:]))
        elif node.op_type == "MatMul":
            total += size * shapes[node.input[0]][-1]
        elif node.op_type == "Gemm":
            transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
            total += size * shapes[node.input[1]][1 if transposed else 0]
    return total


def params(proto: onnx.ModelProto) -> int:
    """Elements of all floating-point initializers."""
    arrays = [numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]
    return sum(array.size for array in arrays if array.dtype.kind not in "iub")


def run_proto(proto: onnx.ModelProto, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Outputs by name on onnxruntime's CPU provider, without fusions, on one thread."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def saved_residual(folder: Path) -> Path:
    """The file of :func:`residual`, with its data and their labels beside it."""
    onnx.save(residual(), folder / "m.onnx")
    np.savez(folder / "m.calib.npz", x=data(5, 64, 3, 8, 8), labels=np.arange(64) % 6)
    return folder / "m.onnx"
