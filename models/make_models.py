"""Train and write the small models of this folder; a second run writes the same bytes.

All learn the handwritten digits that scikit-learn bundles (1,797 images of 8 x 8 pixels, from the UCI optical
recognition data set). Needs no network.

* ``digits_mlp``: 64-300-100-10 perceptron (ReLU), trained by scikit-learn;
* ``digits_lenet``: two convolutions with max pooling, two linear layers, after LeNet-5;
* ``digits_resnet``: four residual blocks at 8 x 8 and 4 x 4 with BatchNormalization.

The last two are trained by :func:`obs_onnx.finetune`, from random weights.

    python models/make_models.py [--output FOLDER] [NAME ...]

The bytes depend on the versions of scikit-learn and NumPy and on the processor's BLAS kernels, the accuracy
hardly does.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SEED = 7
TEST_IMAGES = 497
HIDDEN = (300, 100)
EPOCHS = 60
ROUNDS, STEPS = 4, 400

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Digits:
    """Images ``x`` (samples, 64) in [0, 1] and labels (samples,), split into training and held-out test."""

    train_x: Floats
    train_labels: NDArray[np.int64]
    test_x: Floats
    test_labels: NDArray[np.int64]


def load_digits() -> Digits:
    """The bundled data set, shuffled by ``SEED``; the first ``TEST_IMAGES`` are held out."""
    from sklearn.datasets import load_digits as bundled

    images, labels = bundled(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(images))
    x = (images[order] / 16.0).astype(np.float32)
    y = labels[order].astype(np.int64)
    return Digits(x[TEST_IMAGES:], y[TEST_IMAGES:], x[:TEST_IMAGES], y[:TEST_IMAGES])


def train(digits: Digits) -> list[tuple[Floats, Floats]]:
    """Weights (outputs, inputs) and biases (outputs,) of every layer after ``EPOCHS`` of Adam."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    net = MLPClassifier(
        HIDDEN,
        alpha=1e-3,
        batch_size=50,
        learning_rate_init=1e-3,
        max_iter=EPOCHS,
        random_state=SEED,
        tol=0.0,
    )
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        net.fit(digits.train_x, digits.train_labels)
    return [
        (np.ascontiguousarray(w_IO.T, np.float32), np.asarray(b_O, np.float32))
        for w_IO, b_O in zip(net.coefs_, net.intercepts_, strict=True)
    ]


def build(layers: list[tuple[Floats, Floats]]) -> onnx.ModelProto:
    """Gemm/Relu chain of the layers; ``input`` (batch, 64) -> ``logits`` (batch, 10)."""
    nodes, initializers, value = [], [], "input"
    for index, (w_OI, b_O) in enumerate(layers, start=1):
        initializers += [
            numpy_helper.from_array(w_OI, f"fc{index}.weight"),
            numpy_helper.from_array(b_O, f"fc{index}.bias"),
        ]
        last = index == len(layers)
        output = "logits" if last else f"fc{index}.out"
        inputs = [value, f"fc{index}.weight", f"fc{index}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, [output], name=f"fc{index}", transB=1))
        if not last:
            value = f"relu{index}.out"
            nodes.append(helper.make_node("Relu", [output], [value], name=f"relu{index}"))
    graph = helper.make_graph(
        nodes,
        "digits_mlp",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", layers[0][0].shape[1]])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", layers[-1][0].shape[0]])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="obs-onnx")
    model.ir_version = 10
    onnx.checker.check_model(model, full_check=True)
    return model


class Builder:
    """Nodes and initializers of a convolutional net, one layer after the other, with random weights."""

    def __init__(self, seed: int = SEED) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, Floats] = {}

    def add(self, op_type: str, *inputs: str, name: str, **attributes: object) -> str:
        """A node; the name of its output."""
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}.out"], name=name, **attributes))
        return f"{name}.out"

    def weight(self, name: str, *shape: int) -> str:
        """A weight (outputs, inputs, ...) with the variance of He et al. (2015)."""
        scale = (2 / np.prod(shape[1:])) ** 0.5
        self.tensors[name] = (self.random.standard_normal(shape) * scale).astype(np.float32)
        return name

    def constant(self, name: str, number: float, size: int) -> str:
        """A vector of one number."""
        self.tensors[name] = np.full(size, number, np.float32)
        return name

    def conv(self, x: str, name: str, o: int, i: int, kernel: int, pad: int, stride: int = 1) -> str:
        """A convolution with a bias."""
        w, b = self.weight(f"{name}.weight", o, i, kernel, kernel), self.constant(f"{name}.bias", 0, o)
        sizes = {"kernel_shape": [kernel] * 2, "pads": [pad] * 4, "strides": [stride] * 2}
        return self.add("Conv", x, w, b, name=name, **sizes)

    def normalized(self, x: str, name: str, o: int, i: int, kernel: int, stride: int = 1) -> str:
        """A convolution without a bias, and BatchNormalization."""
        w = self.weight(f"{name}.weight", o, i, kernel, kernel)
        sizes = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4, "strides": [stride] * 2}
        y = self.add("Conv", x, w, name=name, **sizes)
        parts = (("scale", 1), ("shift", 0), ("mean", 0), ("var", 1))
        vectors = [self.constant(f"{name}.norm.{part}", number, o) for part, number in parts]
        return self.add("BatchNormalization", y, *vectors, name=f"{name}.norm")

    def linear(self, x: str, name: str, o: int, i: int) -> str:
        """A linear layer with a bias."""
        w, b = self.weight(f"{name}.weight", o, i), self.constant(f"{name}.bias", 0, o)
        return self.add("Gemm", x, w, b, name=name, transB=1)

    def relu(self, x: str, name: str) -> str:
        """Relu."""
        return self.add("Relu", x, name=name)

    def model(self, name: str, logits: str) -> onnx.ModelProto:
        """``input`` (batch, 1, 8, 8) -> ``logits`` (batch, 10)."""
        assert self.nodes[-1].output[0] == logits
        self.nodes[-1].output[0] = "logits"
        graph = helper.make_graph(
            self.nodes,
            name,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
            [numpy_helper.from_array(array, key) for key, array in self.tensors.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 18)], producer_name="obs-onnx"
        )
        model.ir_version = 10
        onnx.checker.check_model(model, full_check=True)
        return model


def lenet() -> onnx.ModelProto:
    """LeNet-5 for 8 x 8 pixels, untrained."""
    b = Builder()
    x = b.relu(b.conv("input", "conv1", 12, 1, 3, pad=1), "relu1")
    x = b.add("MaxPool", x, name="pool1", kernel_shape=[2, 2], strides=[2, 2])
    x = b.relu(b.conv(x, "conv2", 32, 12, 3, pad=0), "relu2")
    x = b.relu(b.linear(b.add("Flatten", x, name="flatten"), "fc1", 64, 128), "relu3")
    return b.model("digits_lenet", b.linear(x, "fc2", 10, 64))


def resnet() -> onnx.ModelProto:
    """Four residual blocks, the third with a stride and a projection on the skip, untrained."""
    b = Builder()
    x, width = b.relu(b.normalized("input", "stem", 16, 1, 3), "stem.relu"), 16
    for number, o in enumerate((16, 16, 32, 32), start=1):
        name, stride = f"block{number}", 1 if o == width else 2
        y = b.relu(b.normalized(x, f"{name}.conv1", o, width, 3, stride), f"{name}.relu1")
        y = b.normalized(y, f"{name}.conv2", o, o, 3)
        skip = x if o == width else b.normalized(x, f"{name}.skip", o, width, 1, stride)
        x, width = b.relu(b.add("Add", y, skip, name=f"{name}.add"), f"{name}.relu2"), o
    pooled = b.add("Flatten", b.add("GlobalAveragePool", x, name="pool"), name="flatten")
    return b.model("digits_resnet", b.linear(pooled, "fc", 10, width))


def learn(model: onnx.ModelProto, digits: Digits) -> onnx.ModelProto:
    """Train in rounds; before each one BatchNormalization gets the statistics of the training images."""
    import onnx_ir as ir

    from obs_onnx import finetune

    x = digits.train_x.reshape(-1, 1, 8, 8)
    data = {"input": x, "labels": digits.train_labels}
    for round_ in range(ROUNDS):
        model = normalize(model, x)
        last = round_ == ROUNDS - 1
        trained = finetune(
            model,
            data,
            steps=STEPS,
            optimizer="adamw",
            lr=3e-3 if not last else 1e-3,
            weight_decay=0.05,
            eval=data,
            evaluations=1,
            fold=False,
            keep_zeros=False,
            seed=round_,
            threads=1,
        )
        model = ir.to_proto(trained.model)
    return model


def normalize(model: onnx.ModelProto, x: Floats) -> onnx.ModelProto:
    """A copy with the mean and variance of what every BatchNormalization sees, layer by layer."""
    import onnxruntime as ort

    model = onnx.ModelProto.FromString(model.SerializeToString())
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "BatchNormalization"]:
        probe = onnx.ModelProto.FromString(model.SerializeToString())
        probe.graph.output.append(onnx.ValueInfoProto(name=node.input[0]))
        session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
        (seen,) = session.run([node.input[0]], {"input": x})
        for name, array in ((node.input[3], seen.mean((0, 2, 3))), (node.input[4], seen.var((0, 2, 3)))):
            tensors[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
    return model


def accuracy(model: onnx.ModelProto, x: Floats, labels: NDArray[np.int64]) -> float:
    """Share of ``x`` (samples, 64) that onnxruntime classifies as ``labels`` say."""
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": x})
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def write(folder: Path, name: str, model: onnx.ModelProto, digits: Digits, shape: tuple[int, ...]) -> None:
    """Write a model, calibration images (training images without labels) and labelled test images."""
    train_x, test_x = digits.train_x.reshape(-1, *shape), digits.test_x.reshape(-1, *shape)
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
    np.savez_compressed(folder / f"{name}.calib.npz", input=train_x)
    np.savez_compressed(folder / f"{name}.test.npz", input=test_x, labels=digits.test_labels)
    print(f"{name}: training accuracy {accuracy(model, train_x, digits.train_labels):.4f}")
    print(f"{name}: test accuracy     {accuracy(model, test_x, digits.test_labels):.4f}")


MODELS: dict[str, tuple[Callable[[Digits], onnx.ModelProto], tuple[int, ...]]] = {
    "digits_mlp": (lambda digits: build(train(digits)), (64,)),
    "digits_lenet": (lambda digits: learn(lenet(), digits), (1, 8, 8)),
    "digits_resnet": (lambda digits: learn(resnet(), digits), (1, 8, 8)),
}


def main() -> None:
    """Make the models named, or all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to")
    given = parser.parse_args()
    folder: Path = given.output
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    for name in given.names or MODELS:
        make, shape = MODELS[name]
        write(folder, name, make(digits), digits, shape)


if __name__ == "__main__":
    main()
