from __future__ import annotations

from obs_onnx.pruning.weights.advice import advice


def test_advice_says_who_profits() -> None:
    single = " ".join(advice("weights", compressed_before=900, compressed_after=300))
    assert "do not speed up" in single
    assert "XNNPACK" in single
    assert "3.0 times smaller" in single
    assert "sparse tensor cores (Ampere" in " ".join(advice("weights", "2:4"))
    assert "2:4 only" in " ".join(advice("weights", "1x4"))
    assert advice("channels") == ()
