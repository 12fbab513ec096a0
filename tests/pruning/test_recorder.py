"""Times of stages add up, and are kept beside the total."""

from __future__ import annotations

import time

from obs_onnx.progress import quiet
from obs_onnx.pruning.recorder import Recorder


def test_stages_keep_their_order_and_add_up() -> None:
    recorder = Recorder(quiet)
    time.sleep(0.01)
    recorder.reached("open")
    for name in ("solve", "evaluate", "solve"):
        with recorder.stage(name, 1) as advance:
            time.sleep(0.01)
            advance(1)
    found = recorder.with_total
    assert list(found) == ["open", "solve", "evaluate", "total"]
    assert found["open"] >= 0.01
    assert found["solve"] >= 0.02
    assert sum(recorder.seconds.values()) <= found["total"]
    assert list(recorder.seconds) == ["open", "solve", "evaluate"]


def test_what_was_read_does_not_change() -> None:
    recorder = Recorder(quiet)
    before = recorder.seconds
    recorder.reached("open")
    assert before == {}
