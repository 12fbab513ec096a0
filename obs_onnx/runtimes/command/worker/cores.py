"""The machine and its cores, by the standard library alone."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any


def describe() -> dict[str, Any]:
    """CPU, frequency, governor, load and system; None for what cannot be read."""
    cpu = "/sys/devices/system/cpu/cpu0/cpufreq/"
    frequency = _text(cpu + "scaling_cur_freq")
    names = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _text("/proc/cpuinfo") or "", re.MULTILINE)
    return {
        "cpu": names[1].strip() if names else platform.processor() or platform.machine() or None,
        "cores": len(_physical(range(os.cpu_count() or 1))),
        "logical_cores": os.cpu_count(),
        "frequency_mhz": round(int(frequency) / 1000) if frequency and frequency.isdigit() else None,
        "governor": _text(cpu + "scaling_governor"),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    """Physical cores that this process may use."""
    return max(1, len(_physical(_allowed() or range(os.cpu_count() or 1))))


@contextlib.contextmanager
def pinned(cores: Sequence[int] | None) -> Iterator[None]:
    """Keep all threads of this process on ``cores`` meanwhile."""
    if cores is None:
        yield
        return
    before = {}
    for thread in map(int, os.listdir("/proc/self/task")):
        with contextlib.suppress(OSError):
            before[thread] = os.sched_getaffinity(thread)
            os.sched_setaffinity(thread, cores)
    try:
        yield
    finally:
        for thread, allowed in before.items():
            with contextlib.suppress(OSError):
                os.sched_setaffinity(thread, allowed)


def choose(count: int) -> list[int] | None:
    """``count`` of the cores of this process, physical ones and idle ones first; None if that cannot be."""
    allowed = _allowed()
    if allowed is None or len(allowed) < count or not os.path.isdir("/proc/self/task"):
        return None
    before = _busy()
    time.sleep(0.1)
    busy = {core: ticks - before.get(core, 0) for core, ticks in _busy().items()}
    ranked = sorted(allowed, key=lambda core: (busy.get(core, 0), core))
    first = _physical(ranked)
    return sorted((first + [core for core in ranked if core not in first])[:count])


def _allowed() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _physical(cores: Sequence[int]) -> list[int]:
    """The first of ``cores`` on each physical core."""
    found: dict[Any, int] = {}
    for core in cores:
        siblings = _text(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list")
        found.setdefault(siblings or core, core)
    return list(found.values())


def _busy() -> dict[int, int]:
    lines = re.findall(r"^cpu(\d+) (.+)$", _text("/proc/stat") or "", re.MULTILINE)
    return {int(core): sum(map(int, ticks.split()[:3])) for core, ticks in lines}


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return None
