"""What tf2onnx writes for networks of Keras, with a fixed batch of one and with a free one."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import prune_and_compare, signature

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tensorflow: Any = pytest.importorskip("tensorflow", reason="needs the package tensorflow")
    tf2onnx: Any = pytest.importorskip("tf2onnx", reason="needs the package tf2onnx")

keras = tensorflow.keras
layers = keras.layers


def sequential() -> Any:
    return keras.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(16, 3, padding="same"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.SeparableConv2D(24, 3, activation="relu"),
            layers.Dropout(0.2),
            layers.Conv2D(24, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dense(5, activation="softmax"),
        ]
    )


def functional() -> Any:
    image, table = layers.Input((12, 12, 3), name="image"), layers.Input((6,), name="table")
    x = layers.BatchNormalization()(layers.Conv2D(16, 3, use_bias=False)(image))
    shortcut = layers.Activation("swish")(x)
    x = layers.Add()([layers.Conv2D(16, 3, padding="same")(shortcut), shortcut])
    x = layers.Concatenate()([layers.GlobalAveragePooling2D()(x), layers.Dense(24, activation="relu")(table)])
    return keras.Model([image, table], {"scores": layers.Dense(5)(x), "box": layers.Dense(4)(x)})


def mobile() -> Any:
    return keras.Sequential(
        [
            layers.Input((16, 16, 3)),
            layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.DepthwiseConv2D(3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.Conv2D(32, 1),
            layers.PReLU(shared_axes=[1, 2]),
            layers.GlobalAveragePooling2D(),
            layers.Dense(5),
        ]
    )


def upsampling() -> Any:
    x = layers.Input((16, 16, 3))
    a = layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    b = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu")(a)
    c, d = layers.Conv2DTranspose(16, 2, strides=2)(b), layers.UpSampling2D()(b)
    return keras.Model(x, layers.Conv2D(2, 3, padding="same")(layers.Concatenate()([a, c, d])))


def words() -> Any:
    ids = layers.Input((9,), dtype="int32")
    x = layers.Conv1D(24, 3, padding="causal", activation="elu")(layers.Embedding(50, 16)(ids))
    return keras.Model(ids, layers.Dense(3)(layers.GlobalMaxPooling1D()(x)))


def sequence() -> Any:
    return keras.Sequential(
        [
            layers.Input((7, 6)),
            layers.LSTM(24),
            layers.Dense(32, activation="relu"),
            layers.Dense(3),
        ]
    )


NETS: list[Callable[[], Any]] = [sequential, functional, mobile, upsampling, words, sequence]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("free", [False, True], ids=["fixed batch", "free batch"])
@pytest.mark.parametrize("net", NETS, ids=lambda net: net.__name__)
def test_removal_is_exact(tmp_path: Path, net: Callable[[], Any], free: bool) -> None:
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    model, path = net(), tmp_path / "m.onnx"
    for weight in model.weights:
        if "moving_" in weight.path:
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
    inputs = model.inputs
    takes = [
        tensorflow.TensorSpec((None if free else 1, *one.shape[1:]), one.dtype, name=one.name)
        for one in inputs
    ]

    @tensorflow.function(input_signature=takes)
    def call(*given: Any) -> Any:
        return model(list(given) if len(given) > 1 else given[0], training=False)

    tf2onnx.convert.from_function(call, input_signature=takes, output_path=str(path))
    data = {
        name: rng.integers(0, 50, (64, *shape[1:])).astype(np.int32)
        if "int" in kind
        else rng.standard_normal((64, *shape[1:])).astype(np.float32)
        for name, kind, shape in signature(path)[: len(inputs)]
    }
    prune_and_compare(path, data)
