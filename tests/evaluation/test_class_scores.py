"""Which output holds class scores, and the classes they name."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.evaluation.class_scores import classes_of, scores_of

Y = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)


@pytest.mark.parametrize(
    "outputs",
    [
        {"y": Y},
        {"y": Y[:, :, None, None]},
        {"i": np.arange(6), "y": Y},
        {"map": np.zeros((6, 4, 2, 2), np.float32), "one": Y[:, :1], "y": Y, "z": -Y},
    ],
)
def test_the_first_output_of_samples_and_classes(outputs: dict[str, np.ndarray]) -> None:
    scores = scores_of(outputs)
    np.testing.assert_array_equal(scores, Y)
    np.testing.assert_array_equal(classes_of(outputs, scores), Y.argmax(1))


def test_without_scores_whole_numbers_are_classes() -> None:
    for numbers in (np.arange(6), np.arange(6)[:, None]):
        outputs = {"image": np.zeros((6, 3, 2, 2), np.float32), "i": numbers}
        assert scores_of(outputs) is None
        np.testing.assert_array_equal(classes_of(outputs, None), np.arange(6))
    assert classes_of({"image": np.zeros((6, 3, 2, 2), np.float32)}, None) is None


def test_a_row_with_a_number_that_is_none_has_no_class() -> None:
    y = Y.copy()
    y[2, 1] = np.nan
    assert classes_of({"y": y}, y).tolist() == [*Y[:2].argmax(1), -1, *Y[3:].argmax(1)]
