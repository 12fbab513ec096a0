"""Where and when a result was made, and of which model."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from obs_onnx.pruning.inputs import Inputs

__all__ = ["provenance"]

_CHUNK = 1 << 20
_MACHINE = ("cpu", "os", "python")


def provenance(inputs: Inputs) -> dict[str, str]:
    """The runtime and its machine, versions, the date (UTC), and the SHA-256 of the model's file."""
    runtime = inputs.runtime
    machine = runtime.machine()
    found = {**runtime.environment(), **{name: machine.get(name) for name in _MACHINE}}
    found |= {
        "obs-onnx": version("obs-onnx"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if inputs.path is not None and inputs.path.is_file():
        found["model sha256"] = _sha256(inputs.path)
    return {name: str(value) for name, value in found.items() if value is not None}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()
