"""A network of Keras: exported by tf2onnx, pruned; inputs stay NHWC.

pip install 'obs-onnx[cpu]' tensorflow-cpu tf2onnx
python examples/keras_export.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tf2onnx

import obs_onnx


def main(folder: Path) -> obs_onnx.Pruned:
    """Build, export, prune."""
    layers = keras.layers
    net = keras.Sequential(
        [
            layers.Input((16, 16, 3), name="image"),
            layers.Conv2D(24, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.SeparableConv2D(32, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5, activation="softmax"),
        ]
    )
    signature = [tf.TensorSpec((None, 16, 16, 3), tf.float32, name="image")]
    tf2onnx.convert.from_function(
        tf.function(lambda image: net(image), input_signature=signature),
        input_signature=signature,
        output_path=str(folder / "net.onnx"),
    )
    images = np.random.default_rng(0).normal(size=(128, 16, 16, 3)).astype(np.float32)
    result = obs_onnx.prune(
        folder / "net.onnx", folder / "small.onnx", calib=images, targets={"macs": 0.6}, latency=False
    )
    print(result.summary())
    return result


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(Path(place))
