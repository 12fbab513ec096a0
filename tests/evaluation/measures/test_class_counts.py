"""Measures of class scores against formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
from layer_runs import normal
from scipy.special import log_softmax, softmax

from obs_onnx.evaluation.measures.class_counts import ClassCounts, Overlap
from obs_onnx.evaluation.measures.yardstick import yardstick_of
from obs_onnx.passes.errors import DataError


def test_overlap() -> None:
    overlap = Overlap()
    overlap.add(np.array([0, 0, 1, -1]), np.array([0, 1, 1, 1]))
    overlap.add(np.array([3]), np.array([3]))
    assert overlap.mean == pytest.approx(np.mean([1 / 2, 1 / 3, 1]))
    assert Overlap().mean is None


def test_segmentation() -> None:
    y, z = normal(0, 4, 3, 5, 6), normal(1, 4, 3, 5, 6)
    labels = np.random.default_rng(2).integers(0, 3, (4, 5, 6))
    ignored = labels.copy()
    ignored[0] = 255
    counts = ClassCounts(yardstick_of([{"y": y}], task="segmentation"))
    for rows in (slice(0, 1), slice(1, 4)):
        counts.add_labels({"y": z[rows]}, ignored[rows].reshape(-1))
        counts.add_reference({"y": z[rows]}, {"y": y[rows]})
    mine, theirs = z.argmax(1), y.argmax(1)
    assert counts.accuracy == pytest.approx(np.mean(mine[1:] == labels[1:]))
    assert counts.accuracy_top5 is None
    assert counts.agreement == pytest.approx(np.mean(mine == theirs))

    def iou(a, b):
        return np.mean([((a == c) & (b == c)).sum() / ((a == c) | (b == c)).sum() for c in range(3)])

    p, q = softmax(y.astype(float), axis=1), softmax(z.astype(float), axis=1)
    assert counts.measures == {
        "kl": pytest.approx((p * np.log(p / q)).sum(1).mean()),
        "miou": pytest.approx(iou(mine[1:], labels[1:])),
        "miou_to_reference": pytest.approx(iou(mine, theirs)),
    }


def test_one_channel_is_that_of_the_second_class() -> None:
    y = np.random.default_rng(0).random((4, 1, 5, 5)).astype(np.float32)
    counts = ClassCounts(yardstick_of([{"y": y}], task="segmentation"))
    counts.add_reference({"y": 1 - y}, {"y": y})
    counts.add_labels({"y": y}, (y > 0.5).reshape(-1).astype(np.int64))
    assert (counts.agreement, counts.accuracy, counts.measures["miou"]) == (0, 1, 1)


def test_language() -> None:
    y, z = normal(0, 4, 5, 11), normal(1, 4, 5, 11)
    labels = np.random.default_rng(2).integers(0, 11, (4, 5))
    counts = ClassCounts(yardstick_of([{"y": y}], task="language"))
    counts.add_labels({"y": z}, labels.reshape(-1))
    counts.add_reference({"y": z}, {"y": y})
    logs, log_q = log_softmax(y.astype(float), axis=-1), log_softmax(z.astype(float), axis=-1)
    p = np.exp(logs)
    nll = -np.take_along_axis(log_q, labels[:, :, None], axis=2).mean()
    assert counts.agreement == pytest.approx(np.mean(y.argmax(-1) == z.argmax(-1)))
    assert counts.measures == {
        "kl": pytest.approx((p * (logs - log_q)).sum(-1).mean()),
        "perplexity": pytest.approx(np.exp(nll)),
        "perplexity_of_reference": pytest.approx(np.exp(-(p * logs).sum(-1).mean())),
        "perplexity_to_reference": pytest.approx(np.exp(-(p * log_q).sum(-1).mean())),
    }


def test_classification_takes_labels_that_there_are() -> None:
    counts = ClassCounts(yardstick_of([{"y": normal(0, 6, 7)}], task="classification"))
    with pytest.raises(DataError, match="labels go up to 7, the model has 7 classes"):
        counts.add_labels({"y": normal(0, 6, 7)}, np.arange(2, 8))
    with pytest.raises(DataError, match="5 labels for 6 rows"):
        counts.add_labels({"y": normal(0, 6, 7)}, np.arange(5))
    counts.add_labels({"y": normal(0, 6, 7)}, normal(0, 6, 7).argmax(1))
    assert (counts.accuracy, counts.accuracy_top5) == (1, 1)
