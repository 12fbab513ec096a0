"""Caches of latencies lie in folders of the tests; times that are known need no thousands of runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from obs_onnx.latency.cache import LatencyCache

PLACE = {"runtime": "r", "version": "1", "cpu": "c"}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that ``OBS_ONNX_CACHE`` names."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr("obs_onnx.latency.benchmark._MAX_RUNS", 200)
    monkeypatch.setenv("OBS_ONNX_CACHE", str(folder))
    return folder


def write_many(number: int) -> None:
    for i in range(50):
        cache = LatencyCache(PLACE)
        cache.put(f"{number}.{i}", number + i + 1.0)
        cache.save()
