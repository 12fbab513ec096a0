"""Lipschitz constants against what small perturbations really do."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.ops import TABLE, lookup
from obs_onnx.passes.traits.op import Op

LINEAR = [  # node, shape of x, largest factor by which the bound may exceed the true norm
    ("y = AveragePool <kernel_shape = [3], strides = [1]> (x)", (1, 1, 9), 1.0),
    ("y = AveragePool <kernel_shape = [3, 2], strides = [2, 1], pads = [1, 0, 1, 1]> (x)", (1, 2, 6, 5), 1.0),
    ("y = AveragePool <kernel_shape = [3], count_include_pad = 1, pads = [1, 1]> (x)", (1, 1, 9), 1.0),
    ("y = GlobalAveragePool(x)", (1, 2, 3, 4), 1.0),
    ("y = ReduceMean <keepdims = 0> (x, two)", (2, 3, 4), 1.0),
    ("y = ReduceSum(x, two)", (2, 3, 4), 1.0),
    ("y = ReduceSum(x)", (2, 3, 4), 1.0),
    ("y = CumSum(x, one)", (2, 5), 1.0),
    ("y = Add(x, row)", (3, 4), 1.0),
    ("y = Sub(row, x)", (3, 1), 1.0),
    ("y = Add(x, row)", (3, 1), 1.0),
    ("y = Mul(x, row)", (3, 4), 1.0),
    ("y = Mul(row, x)", (3, 1), 1.6),
    ("y = Div(x, row)", (3, 4), 1.0),
    ("y = Mean(x, row)", (3, 4), 1.0),
    ("y = Concat <axis = 0> (x, row)", (3, 4), 1.0),
    ("y = Expand(x, wide)", (1, 4), 1.0),
    ("y = Tile(x, twice)", (2, 3), 1.0),
    ("y = Gather <axis = 1> (x, often)", (2, 4), 1.0),
    ("y = Gather(x, negative)", (2, 4), 1.0),
    ("y = Pad(x, pads)", (2, 4), 1.0),
    ('y = Pad <mode = "reflect"> (x, pads)', (2, 4), 1.0),
    ('y = Pad <mode = "edge"> (x, pads)', (2, 4), 1.0),
    ('y = Resize <mode = "nearest"> (x, , scales)', (1, 4), 1.0),
    (
        'y = Resize <mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = '
        '"asymmetric"> (x, , uneven)',
        (1, 5),
        1.5,
    ),
    ('y = Resize <mode = "linear"> (x, , scales)', (1, 6), 1.6),
    (
        'y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, , uneven)',
        (1, 6),
        1.7,
    ),
    ("y = Transpose(x)", (2, 3), 1.0),
    ("y = Slice(x, zero, one)", (2, 3), 1.0),
    ("a, y = Split <num_outputs = 2> (x)", (2, 3), 1.0),
    ("y = DepthToSpace <blocksize = 2> (x)", (1, 4, 2, 2), 1.0),
    ("y = BatchNormalization(x, row, row, row, positive)", (2, 4), 1.0),
]

NONLINEAR = [  # node, shape of x; the bound must hold and be attained within a tenth of a percent or so
    ("y = Relu(x)", 1.0),
    ("y = LeakyRelu <alpha = 3.0> (x)", 1.0),
    ("y = PRelu(x, slope)", 1.0),
    ("y = Elu <alpha = 1.5> (x)", 1.001),
    ("y = Selu(x)", 1.001),
    ("y = Celu <alpha = 2.0> (x)", 1.001),
    ("y = Sigmoid(x)", 1.001),
    ("y = HardSigmoid <alpha = 0.3> (x)", 1.001),
    ("y = HardSwish(x)", 1.001),
    ("y = Mish(x)", 1.001),
    ("y = Gelu(x)", 1.001),
    ('y = Gelu <approximate = "tanh"> (x)', 1.001),
    ("y = Erf(x)", 1.001),
    ("y = Softplus(x)", 1.02),
    ("y = Softsign(x)", 1.02),
    ("y = Tanh(x)", 1.001),
    ("y = Sin(x)", 1.001),
    ("y = Atan(x)", 1.001),
    ("y = Clip(x)", 1.0),
    ("y = com.microsoft.QuickGelu <alpha = 1.702> (x)", 1.001),
    ("y = com.microsoft.Gelu(x)", 1.001),
]

SEVERAL = [  # node, shape of x, for operators that couple elements
    ("y = Softmax <axis = 1> (x)", (3, 5)),
    ("y = LogSoftmax <axis = 1> (x)", (3, 5)),
    ("y = MaxPool <kernel_shape = [3], strides = [1]> (x)", (1, 2, 9)),
    ("y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], dilations = [2, 1]> (x)", (1, 1, 9, 9)),
    ("y = LpPool <kernel_shape = [3]> (x)", (1, 1, 9)),
    ("y = GlobalMaxPool(x)", (1, 2, 3, 3)),
    ("y = ReduceL2 <keepdims = 0> (x, two)", (2, 3, 4)),
    ("y = ReduceL1(x)", (2, 3)),
    ("y = ReduceMax(x)", (2, 3)),
    ("y = ReduceLogSumExp(x)", (2, 3)),
    ("y = Max(x, row)", (3, 4)),
    ("y, i = TopK(x, one)", (3, 4)),
    ("y = Where(mask, x, row)", (3, 4)),
]

CONSTANTS = {
    "row": np.array([[0.5, -1.0, 1.5, 0.25]], np.float32),
    "positive": np.array([0.5, 1.0, 1.5, 0.25], np.float32),
    "slope": np.array([-2.5], np.float32),
    "mask": np.array([[True, False, True, False]]),
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([1, 2]),
    "wide": np.array([3, 4]),
    "twice": np.array([2, 3]),
    "often": np.array([0, 2, 2, 1, -2]),
    "negative": np.array([-1, 1, 1]),
    "pads": np.array([0, 2, 0, 1]),
    "scales": np.array([1, 3], np.float32),
    "uneven": np.array([1, 1.7], np.float32),
}


@pytest.fixture
def operator(make_model):
    """(bound for input x, function) of a node; a function maps one array to all first outputs."""

    def operator(text: str, shape: tuple[int, ...], opset: int = 20):
        used = {
            name: array
            for name, array in CONSTANTS.items()
            if name in text.replace("(", " ").replace(",", " ").replace(")", " ").split()
        }
        if "BatchNormalization" in text:
            used["row"] = used["row"][0]
        dims = ",".join(map(str, shape))
        outputs = text.split("=")[0].split(",")
        declared = ", ".join(f"float {name.strip()}" for name in outputs if name.strip() != "i")
        model = make_model(f"g (float[{dims}] x) => ({declared}) {{ {text} }}", used, opset=opset)
        for output in model.graph.outputs:
            output.shape = None
        model = canonicalize(model)
        node = model.graph[0]
        bounds = lookup(node).lipschitz(node)
        index = next(i for i, value in enumerate(node.inputs) if value is not None and value.name == "x")
        assert len(bounds) == len(node.inputs)
        assert all(bound == 0.0 for i, bound in enumerate(bounds) if i != index)
        session = ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
        )

        def run(x: np.ndarray) -> np.ndarray:
            arrays = session.run(None, {"x": x.astype(np.float32)})
            return np.concatenate([array.reshape(-1).astype(np.float64) for array in arrays])

        return bounds[index], run

    return operator


@pytest.mark.parametrize(("text", "shape", "slack"), LINEAR)
def test_linear_operators(operator, text, shape, slack):
    bound, run = operator(text, shape)
    size = int(np.prod(shape))
    offset = run(np.zeros(shape))
    jacobian = np.stack([run(row.reshape(shape)) - offset for row in np.eye(size)], axis=1)
    norm = np.linalg.norm(jacobian, 2)
    assert norm * (1 - 1e-5) <= bound <= norm * slack * (1 + 1e-5)


@pytest.mark.parametrize(("text", "slack"), NONLINEAR)
def test_functions_of_one_element(operator, text, slack):
    grid = np.linspace(-12, 12, 24001)
    bound, run = operator(text, (24001,))
    steepest = np.abs(np.diff(run(grid)) / np.diff(grid.astype(np.float32).astype(np.float64))).max()
    assert steepest <= bound * (1 + 2e-3)  # float32 differences
    assert bound <= steepest * slack * (1 + 2e-3)


@pytest.mark.parametrize(("text", "shape"), SEVERAL)
def test_functions_of_several_elements(operator, text, shape, rng):
    bound, run = operator(text, shape)
    worst = 0.0
    for scale in (0.01, 1.0, 10.0):
        for _ in range(200):
            x, d = rng.normal(size=shape) * scale, rng.normal(size=shape)
            d *= rng.random(size=shape) < rng.random()
            step = 0.1 * scale
            change = np.linalg.norm(run(x + step * d) - run(x))
            worst = max(worst, change / max(1e-12, step * np.linalg.norm(d)))
    assert 0 < worst <= bound * (1 + 1e-3)


@pytest.mark.parametrize(
    ("text", "inputs"),
    [
        ("y = Mul(x, x)", 2),
        ("y = Div(row, x)", 2),
        ("y = Exp(x)", 1),
        ("y = Sqrt(x)", 1),
        ("y = LayerNormalization(x, positive)", 2),
        ("y = ThresholdedRelu(x)", 1),
        ("y = Floor(x)", 1),
    ],
)
def test_operators_without_a_bound(make_model, text, inputs):
    used = {name: array for name, array in CONSTANTS.items() if name in text}
    node = canonicalize(make_model(f"g (float[3,4] x) => (float[3,4] y) {{ {text} }}", used)).graph[0]
    bounds = lookup(node).lipschitz(node)
    assert len(bounds) == inputs
    assert all(
        (bound is None) == (value.name == "x") for bound, value in zip(bounds, node.inputs, strict=True)
    )


def test_unknown_lengths_never_give_a_bound_that_is_too_small(make_model):
    model = canonicalize(
        make_model(
            "g (float[N,C,L] x) => (float[N,C] s) { two = Constant <value_ints = [2]> () "
            "s = ReduceSum <keepdims = 0> (x, two)  m = ReduceMean <keepdims = 0> (x, two) "
            "c = CumSum(x, two)  l = LogSoftmax <axis = 1> (x)  p = AveragePool <kernel_shape = [3]> (x) }"
        )
    )
    bounds = {node.op_type: lookup(node).lipschitz(node)[0] for node in model.graph}
    assert bounds == {
        "ReduceSum": None,
        "ReduceMean": 1.0,
        "CumSum": None,
        "LogSoftmax": None,
        "AveragePool": pytest.approx(3**0.5),
    }


def test_every_standard_operator_name_exists():
    for key, op in TABLE.items():
        assert isinstance(op, Op)
        if "::" not in key and key != "SimplifiedLayerNormalization":
            assert onnx.defs.has(key), key
