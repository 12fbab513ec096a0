"""What a sample holds is for the page alone."""

from __future__ import annotations

from obs_onnx.results.samples import ChangedSample


def test_data_is_not_in_the_json() -> None:
    sample = ChangedSample(3, 1, 2, 0.9, 0.5, 1, {"x": "iVBO"}, {"y": "secret"})
    assert sample.to_json() == {
        "sample": 3,
        "before": 1,
        "after": 2,
        "sure_before": 0.9,
        "sure_after": 0.5,
        "label": 1,
    }
