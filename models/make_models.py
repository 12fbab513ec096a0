"""Train and write the small models of this folder; a second run writes the same bytes.

``digits_mlp``: 64-300-100-10 perceptron (ReLU) on the handwritten digits that scikit-learn bundles (1,797
images of 8 x 8 pixels, from the UCI optical recognition data set). Needs no network.

    python models/make_models.py [--output FOLDER]

The bytes depend on the versions of scikit-learn and NumPy and on the processor's BLAS kernels, the accuracy
hardly does.
"""

from __future__ import annotations

import argparse
import warnings
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


def accuracy(model: onnx.ModelProto, x: Floats, labels: NDArray[np.int64]) -> float:
    """Share of ``x`` (samples, 64) that onnxruntime classifies as ``labels`` say."""
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": x})
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def main() -> None:
    """Write model, calibration images (training images without labels) and labelled test images."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder to write to")
    folder: Path = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    model = build(train(digits))
    (folder / "digits_mlp.onnx").write_bytes(model.SerializeToString(deterministic=True))
    np.savez_compressed(folder / "digits_mlp.calib.npz", input=digits.train_x)
    np.savez_compressed(folder / "digits_mlp.test.npz", input=digits.test_x, labels=digits.test_labels)
    print(f"training accuracy {accuracy(model, digits.train_x, digits.train_labels):.4f}")
    print(f"test accuracy     {accuracy(model, digits.test_x, digits.test_labels):.4f}")


if __name__ == "__main__":
    main()
