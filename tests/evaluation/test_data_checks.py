"""Data that cannot be right is refused or told; data that is right is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.data.open_source import open_source, split
from obs_onnx.evaluation import data_checks
from obs_onnx.evaluation.data_checks import (
    check_samples,
    contradiction,
    differences,
    guesses,
    look,
    saturation,
)
from obs_onnx.passes.errors import DataError

F32 = np.dtype(np.float32)
PICTURE = (TensorSpec("x", ("N", 3, 8, 8), F32),)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (64, 3, 8, 8)).astype(np.float32)


def seen(x, specs=PICTURE):
    return look(open_source(x, specs, batch_size=20))


class TestLook:
    def test_figures(self) -> None:
        found = seen({"x": PIXELS})
        one = found.ranges["x"]
        assert (found.samples, found.different, found.random) == (64, 64, False)
        assert (one.low, one.high, one.whole, one.count) == (0, 255, 1.0, PIXELS.size)
        assert one.mean == pytest.approx(PIXELS.mean(), rel=1e-6)
        assert one.deviation == pytest.approx(PIXELS.std(), rel=1e-6)

    def test_both_parts_of_a_split_count(self) -> None:
        fit, held = split(open_source({"x": PIXELS}, PICTURE), 0.125)
        assert look(fit, held).samples == 64
        assert look(fit, held).different == 64

    def test_masked_values_do_not_count(self) -> None:
        mask = np.where(np.tril(np.ones((8, 8))) > 0, 0, -np.inf).astype(np.float32)
        spec = (TensorSpec("mask", ("N", 8, 8), F32), TensorSpec("x", ("N", 2), F32))
        one = seen({"mask": np.repeat(mask[None], 4, 0), "x": RNG.standard_normal((4, 2))}, spec).ranges[
            "mask"
        ]
        assert (one.mean, one.deviation, one.low, one.high) == (0, 0, 0, 0)

    def test_whole_feeds(self) -> None:
        spec = (TensorSpec("x", ("N", 2), F32), TensorSpec("t", (), np.dtype(np.int64)))
        found = seen({"x": np.ones((5, 2), np.float32), "t": np.arange(5)}, spec)
        assert (found.samples, found.different) == (5, 5)


class TestSamples:
    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (
                np.zeros((16, 3, 8, 8)),
                "all 16 samples hold nothing but 0: give samples as the model will meet",
            ),
            (np.ones((16, 3, 8, 8)), "all 16 samples are the same"),
            (np.repeat(PIXELS[:1], 16, 0), "all 16 samples are the same"),
        ],
    )
    def test_the_same_again_and_again_is_refused(self, x, message) -> None:
        with pytest.raises(DataError, match=message):
            check_samples(seen({"x": x.astype(np.float32)}))

    def test_repeated_samples(self) -> None:
        (said,) = check_samples(seen({"x": np.tile(PIXELS[:4], (16, 1, 1, 1))}))
        assert "only 4 of 64 samples are different" in said
        assert check_samples(seen({"x": np.concatenate([PIXELS, PIXELS[:20]])})) == []

    def test_noise(self) -> None:
        (said,) = check_samples(seen("random:8"))
        assert said.startswith("random:8 is noise")

    def test_one_sample_or_other_samples_are_fine(self) -> None:
        assert check_samples(seen({"x": PIXELS[:1]})) == []
        assert check_samples(seen({"x": PIXELS})) == []
        spec = (TensorSpec("ids", ("N", 4), np.dtype(np.int64)), TensorSpec("h", ("N", 6), F32))
        ids, state = RNG.integers(0, 99, (8, 4)), np.zeros((8, 6), np.float32)
        assert check_samples(seen({"ids": ids, "h": state}, spec)) == []


class TestDifferences:
    @pytest.mark.parametrize(
        ("a", "b"),
        [
            (PIXELS, PIXELS / 255),
            (PIXELS / 255, (PIXELS / 255 - 0.45) / 0.225),
            (PIXELS / 255, PIXELS / 127.5 - 1),
            (PIXELS - 118, PIXELS),
        ],
    )
    def test_other_preprocessing_is_told(self, a, b) -> None:
        for one, other in ((a, b), (b, a)):
            (said,) = differences(seen({"x": one}), seen({"x": other}))
            assert "input 'x' differs between" in said

    def test_other_samples_of_the_same_kind_are_not(self) -> None:
        for _ in range(20):
            light = RNG.uniform(0.5, 1.5, (40, 1, 1, 1))
            a, b = (RNG.lognormal(0, 1, (40, 3, 8, 8)) * light for _ in range(2))
            assert differences(seen({"x": a}), seen({"x": b})) == []

    def test_noise_is_told_once(self) -> None:
        assert differences(seen("random:32"), seen({"x": PIXELS})) == []

    def test_tokens(self) -> None:
        spec = (TensorSpec("ids", ("N", 16), np.dtype(np.int64)),)
        a, b = RNG.integers(0, 10, (32, 16)), RNG.integers(0, 30000, (32, 16))
        assert len(differences(seen({"ids": a}, spec), seen({"ids": b}, spec))) == 1
        assert differences(seen({"ids": b[:20]}, spec), seen({"ids": b[20:]}, spec)) == []


class TestSaturation:
    def softmax(self, z):
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return p / p.sum(axis=1, keepdims=True)

    def test_pixels_in_a_net_that_is_too_sure(self) -> None:
        logits = RNG.standard_normal((64, 10)) * 300
        for scores in (logits, self.softmax(logits)):
            (said,) = saturation(seen({"x": PIXELS}), {"y": scores}, scores)
            assert "whole numbers up to 255" in said

    def test_a_net_that_takes_pixels_is_sure_within_reason(self) -> None:
        logits = RNG.standard_normal((64, 10)) * 5
        for scores in (logits, self.softmax(logits)):
            assert saturation(seen({"x": PIXELS}), {"y": scores}, scores) == []

    def test_scaled_pixels_are_never_told(self) -> None:
        logits = RNG.standard_normal((64, 10)) * 300
        assert saturation(seen({"x": PIXELS / 255}), {"y": logits}, logits) == []

    def test_other_outputs_at_their_ends(self) -> None:
        ends = np.sign(RNG.standard_normal((64, 5))).astype(np.float32)
        assert len(saturation(seen({"x": PIXELS}), {"y": ends}, None)) == 1
        assert saturation(seen({"x": PIXELS}), {"y": np.tanh(RNG.standard_normal((64, 5)))}, None) == []
        assert saturation(seen({"x": PIXELS}), {"y": RNG.standard_normal((64, 5))}, None) == []


@pytest.mark.parametrize(
    ("accuracy", "samples", "classes", "told"),
    [
        (0.10, 1000, 10, True),
        (0.0, 100, 10, True),  # classes that count from 1
        (0.5, 40, 2, True),
        (0.99, 1000, 10, False),
        (0.2, 1000, 10, False),  # poor, but no guess
        (1.0, 4, 2, False),
        (1 / 3, 3, 5, False),  # so few samples say little
        (None, 100, 10, False),
        (0.5, 100, 1, False),
    ],
)
def test_a_model_that_guesses(accuracy, samples, classes, told) -> None:
    assert bool(guesses(accuracy, samples, classes)) == told


@pytest.mark.parametrize(
    ("drop", "labelled", "agreement", "samples", "told"),
    [
        (0.9, 1000, 0.99, 256, True),
        (0.9, 1000, 1.0, 8, True),
        (0.05, 1000, 0.97, 64, False),  # within what so few samples say
        (0.2, 1000, 0.75, 256, False),
        (0.0, 1000, 0.5, 256, False),
        (0.3, 10, 1.0, 8, False),
        (None, 1000, 0.99, 256, False),
        (0.9, 1000, None, 256, False),
    ],
)
def test_a_drop_that_contradicts(drop, labelled, agreement, samples, told) -> None:
    said = contradiction(drop, labelled, agreement, samples, 0.03)
    assert bool(said) == told
    assert not told or "(output error 0.03)" in said[0]


@pytest.mark.parametrize(("count", "trials"), [(0, 5), (1, 1), (3, 40), (250, 500), (500, 500)])
def test_shares_are_those_of_the_binomial_test(count: int, trials: int) -> None:
    test = binomtest(count, trials, 0.1, alternative="greater")
    assert data_checks._at_least(count, trials, 0.1) == pytest.approx(test.pvalue)
    both = binomtest(count, trials).proportion_ci(data_checks._CONFIDENCE)
    assert data_checks._interval(count, trials) == pytest.approx((both.low, both.high))
