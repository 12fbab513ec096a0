"""Cores of this machine, chosen and kept."""

from __future__ import annotations

import os

import pytest

from obs_onnx.runtimes.command.worker import cores

NEEDS_AFFINITY = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")


def test_what_is_known_about_the_machine() -> None:
    found = cores.describe()
    assert found["logical_cores"] == os.cpu_count()
    assert 1 <= found["cores"] <= found["logical_cores"]
    assert 1 <= cores.usable_cores() <= found["cores"]
    assert found["load_average"] is None or found["load_average"] >= 0


def test_physical_cores_come_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a machine where 0 and 4, 1 and 5 ... share a core, in the order that is asked for."""
    siblings = {f"cpu{n}/": f"{n % 4},{n % 4 + 4}" for n in range(8)}
    monkeypatch.setattr(
        cores, "_text", lambda path: next((s for c, s in siblings.items() if c in path), None)
    )
    assert cores._physical([5, 1, 0, 4, 2]) == [5, 0, 2]
    monkeypatch.setattr(cores, "_text", lambda path: None)  # where the system does not say
    assert cores._physical([5, 1, 0]) == [5, 1, 0]


def test_idle_cores_are_chosen_and_siblings_last(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([dict.fromkeys(range(4), 100), {0: 190, 1: 101, 2: 150, 3: 100}])
    monkeypatch.setattr(cores, "_allowed", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(cores, "_busy", lambda: next(ticks))
    monkeypatch.setattr(cores, "_physical", lambda ranked: [core for core in ranked if core != 1])
    monkeypatch.setattr(cores.os.path, "isdir", lambda path: True)
    assert cores.choose(2) == [2, 3]  # 3 and 1 are idle, but 1 is the sibling of another


def test_more_cores_than_there_are_cannot_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_allowed", lambda: [0, 1])
    assert cores.choose(3) is None
    monkeypatch.setattr(cores, "_allowed", lambda: None)
    assert cores.choose(1) is None


@NEEDS_AFFINITY
def test_threads_are_kept_on_cores_meanwhile() -> None:
    before = os.sched_getaffinity(0)
    one = min(before)
    with cores.pinned([one]):
        assert os.sched_getaffinity(0) == {one}
    assert os.sched_getaffinity(0) == before
    with cores.pinned(None):
        assert os.sched_getaffinity(0) == before
