"""Where and when a result was made, of which model and of which data."""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from obs_onnx.io.paths import calibration_beside
from obs_onnx.pruning.inputs import Inputs
from obs_onnx.pruning.options import RunOptions

__all__ = ["provenance"]

_CHUNK = 1 << 20
_MOST = 1 << 30  # bytes of data that are read for their check sum
_MACHINE = ("cpu", "os", "python")


def provenance(inputs: Inputs, options: RunOptions) -> dict[str, str]:
    """The runtime and its machine, versions, the date (UTC), and the SHA-256 of the model's file and of data.

    That of a folder is of the names of its files, in order, each with its contents.
    """
    runtime = inputs.runtime
    machine = runtime.machine()
    found = {**runtime.environment(), **{name: machine.get(name) for name in _MACHINE}}
    found |= {
        "obs-onnx": version("obs-onnx"),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if inputs.path is not None and inputs.path.is_file():
        found["model sha256"] = _sha256(inputs.path)
    calib = calibration_beside(inputs.path) if options.calib is None else options.calib
    for what, data in (("calibration data", calib), ("evaluation data", options.eval)):
        if isinstance(data, str | Path) and (sum_ := _sum_of_data(Path(data))) is not None:
            found |= {what: str(data), f"{what} sha256": sum_}
    return {name: str(value) for name, value in found.items() if value is not None}


def _sum_of_data(path: Path) -> str | None:
    """Check sum of a file or a folder; None of something else, or of what is too large."""
    if path.is_file():
        return None if path.stat().st_size > _MOST else _sha256(path)
    if not path.is_dir():
        return None
    files = sorted(one for one in path.rglob("*") if one.is_file())
    if sum(one.stat().st_size for one in files) > _MOST:
        return None
    digest = hashlib.sha256()
    for one in files:
        digest.update(f"{one.relative_to(path).as_posix()} {_sha256(one)}\n".encode())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()
