"""A pipeline of scikit-learn: exported by skl2onnx as it is, pruned, and still the same classes.

pip install 'obs-onnx[cpu]' scikit-learn skl2onnx
python examples/scikit_learn.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import obs_onnx


def main(folder: Path) -> float:
    """Train, export, prune; the share of samples whose class stayed."""
    x, y = load_digits(return_X_y=True)
    x = x.astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((64, 48), max_iter=40, random_state=0)).fit(x, y)
    model = to_onnx(pipeline, x[:1], options={"zipmap": False})

    # the label is a decision: what is in front of it, the probabilities, is what is compared
    result = obs_onnx.prune(model, folder / "digits.onnx", calib=x, targets={"params": 0.5}, latency=False)
    print(result.summary())

    session = onnxruntime.InferenceSession(folder / "digits.onnx")
    found = session.run(None, {session.get_inputs()[0].name: x})[0]
    return float((found == pipeline.predict(x)).mean())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        print(f"{100 * main(Path(place)):.1f}% of the classes stayed")
