"""Curves behind the whole refit, from a damage that is known."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.allocation.curves import Curve, Ranked
from obs_onnx.allocation.refit_correction import mended


def ranked(n: int) -> Ranked:
    shares = (0.1, 0.3, 0.5, 0.8, 0.95)
    return Ranked(np.arange(n), Curve(n, shares, tuple(share**2 for share in shares), (0.0,) * 5, gone=9.0))


def test_a_share_of_the_damage_remains() -> None:
    one = ranked(20)

    def damage(group: int, mask: np.ndarray) -> float:
        if not mask.any():
            return 0.5
        return 0.25 * float(one.curve.damage(np.array([1 - mask.mean()]))[0])

    asked: list[int] = []
    found = mended({3: one}, damage, {3}, asked.append)[3]
    assert asked == [1]
    assert found.curve.gone == 0.5
    np.testing.assert_allclose(found.curve.damages, 0.25 * np.array(one.curve.damages), rtol=1e-9)
    np.testing.assert_array_equal(found.order, one.order)


def test_never_more_than_before_and_never_falling() -> None:
    one = ranked(10)
    remaining = {5: 3.0, 2: 0.01}
    found = mended(
        {0: one},
        lambda _, mask: remaining[int(mask.sum())] * float(one.curve.damage(np.array([1 - mask.mean()]))[0]),
        (),
    )[0].curve
    assert found.gone is None
    assert (np.diff(found.damages) >= 0).all()
    assert all(after <= before for after, before in zip(found.damages, one.curve.damages, strict=True))


@pytest.mark.parametrize("n", [2, 3])
def test_tiny_groups(n: int) -> None:
    counts = []
    mended({0: ranked(n)}, lambda _, mask: counts.append(int(mask.sum())) or 0.0, ())
    assert counts == sorted(set(counts), reverse=True)
    assert all(0 < count < n for count in counts)
