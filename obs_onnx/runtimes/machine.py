"""This machine: what it is, what of it may be used, and keeping the measuring thread on its cores."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

__all__ = ["activation_budget", "describe_machine", "pinned", "usable_cores", "working_memory"]

_CPU = Path("/sys/devices/system/cpu")
_OF_USE = 1_000_000_000  # activations beyond that wait in files


@contextmanager
def pinned(cores: int) -> Iterator[tuple[int, ...] | None]:
    """Keep this thread, and threads it starts, on ``cores`` cores (the idlest, physical ones first).

    Yields:
        The cores, or None where the system has no affinity or gives this process fewer cores than that.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = os.sched_getaffinity(0)
    if len(before) < cores:
        yield None
        return
    chosen = _choose(sorted(before), cores)
    os.sched_setaffinity(0, chosen)
    try:
        yield tuple(sorted(chosen))
    finally:
        os.sched_setaffinity(0, before)


def describe_machine() -> dict[str, Any]:
    """CPU, frequency governor, load and system, ready for JSON; None for what cannot be read."""
    frequency = psutil.cpu_freq() if hasattr(psutil, "cpu_freq") else None
    return {
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": os.cpu_count(),
        "frequency_mhz": round(frequency.current) if frequency else None,
        "governor": _read(_CPU / "cpu0/cpufreq/scaling_governor"),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "os": platform.platform(),
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    """Physical cores that this process may use."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(logical, psutil.cpu_count(logical=False) or logical))


def working_memory(memory: int | None) -> int:
    """Bytes to work with: ``memory``, or half of what is free, though not more than is of use."""
    return memory or min(psutil.virtual_memory().available // 2, _OF_USE)


def activation_budget(memory: int) -> int:
    """Of ``memory``, the bytes of activations that are kept; the rest is for runs and for moments."""
    return memory // 8


def _choose(cores: list[int], count: int) -> set[int]:
    """``count`` of ``cores``: first one of every physical core, the idlest first."""
    if count == len(cores):
        return set(cores)
    busy = psutil.cpu_percent(interval=0.1, percpu=True)
    load = {core: busy[core] if core < len(busy) else 0.0 for core in cores}
    ranked = sorted(cores, key=lambda core: (load[core], core))
    first: list[int] = []
    second: list[int] = []
    seen: set[str] = set()
    for core in ranked:
        siblings = _read(_CPU / f"cpu{core}/topology/thread_siblings_list") or str(core)
        (second if siblings in seen else first).append(core)
        seen.add(siblings)
    return set((first + second)[:count])


def _cpu_name() -> str | None:
    for line in (_read(Path("/proc/cpuinfo")) or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
