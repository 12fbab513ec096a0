"""Whether workers have the programs that this process has: others may give other digits, or none at all."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from obs_onnx.passes.errors import OptionError, named

__all__ = ["PACKAGES", "Versions", "check_workers", "differences", "here", "refused"]

Versions = Mapping[str, str | None]
"""Name of a package, or ``Python``, and its version; None where it is not installed."""

PACKAGES = (
    "obs-onnx",
    "numpy",
    "scipy",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
)


def here() -> dict[str, str]:
    """Versions of what this process has: of those that a worker needs, too."""
    found = {"Python": minor(platform.python_version())}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def minor(python: str) -> str:
    """The version of Python that decides what it can read: 3.12 of 3.12.4."""
    return ".".join(python.split(".")[:2])


def differences(wanted: Mapping[str, str], found: Versions) -> str:
    """What a worker has else than is wanted, in words; nothing where it has all."""
    return ", ".join(
        f"no {name}" if (other := found.get(name)) is None else f"{name} {other} instead of {one}"
        for name, one in wanted.items()
        if found.get(name) != one
    )


def check_workers(client: Any, cluster: str, wanted: Mapping[str, str]) -> None:
    """Refuse workers that lack what they need; only the standard library is asked of them.

    Args:
        client: of a scheduler.
        cluster: how the user names it.
        wanted: see :func:`here`.

    Raises:
        OptionError: one does.
    """
    python = client.run(platform.python_version, on_error="return")
    found: dict[str, dict[str, str | None]] = {
        worker: {"Python": minor(one) if isinstance(one, str) else None} for worker, one in python.items()
    }
    for name in wanted:
        if name != "Python":
            for worker, one in client.run(version, name, on_error="return").items():
                found.setdefault(worker, {})[name] = one if isinstance(one, str) else None
    other = [(worker, said) for worker, one in found.items() if (said := differences(wanted, one))]
    if other:
        worker, said = other[0]
        more = f", and {len(other) - 1} more workers are not right" if len(other) > 1 else ""
        raise refused(cluster, worker, said + more)


def refused(cluster: str, worker: str, said: str) -> OptionError:
    """The error about a worker that has not what is wanted; ``said`` is from :func:`differences`."""
    return OptionError(
        f"{named('cluster', cluster)}: worker {worker} has {said}: start workers in the same environment"
    )
