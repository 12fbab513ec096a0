"""A model and its external data as parts that can be sent elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import onnx

from obs_onnx.io.external_data import data_file, folders_of, location_of
from obs_onnx.io.onnx_checks import tensors_of
from obs_onnx.io.onnx_file import parse
from obs_onnx.passes.errors import ModelError
from obs_onnx.runtimes.base import ModelSource
from obs_onnx.runtimes.command.worker.frames import PAYLOAD_LIMIT
from obs_onnx.runtimes.command.worker.server import is_inside

__all__ = ["Part", "model_parts"]

_CHUNK = 2**20
_MODEL = "obs-onnx-model.onnx"


@dataclass(frozen=True)
class Part:
    """One file.

    Attributes:
        name: relative to the model's folder.
        source: its bytes, or where they are.
        size: in bytes.
    """

    name: str
    source: bytes | Path
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, as many as ``size`` says.

        Raises:
            ModelError: the file has become shorter or cannot be read.
        """
        if isinstance(self.source, bytes):
            yield self.source
            return
        left = self.size
        try:
            with self.source.open("rb") as file:
                while left and (chunk := file.read(min(left, _CHUNK))):
                    left -= len(chunk)
                    yield chunk
        except OSError as error:
            raise ModelError(f"{self.source} cannot be read: {error.strerror}") from error
        if left:
            raise ModelError(f"{self.source} became shorter while it was sent")


def model_parts(model: ModelSource, external_data: str | PathLike[str] | None = None) -> tuple[Part, ...]:
    """The model first, then the files its tensors are in.

    Args:
        model: serialized bytes, or a path.
        external_data: folder of external data files, with bytes.

    Raises:
        ModelError: a file is missing, unreadable or outside of the folder, or all are too large to send.
    """
    folders: Sequence[str]
    if isinstance(model, bytes):
        data, folders = model, () if external_data is None else (os.fspath(external_data),)
    else:
        path = Path(model)
        try:
            data, folders = path.read_bytes(), folders_of(path)
        except FileNotFoundError as error:
            raise ModelError(f"model {os.fspath(model)} does not exist") from error
        except OSError as error:
            raise ModelError(f"model {os.fspath(model)} cannot be read: {error.strerror}") from error
    parts = [Part(_MODEL, data, len(data))]
    if folders:
        parts += [_external(folders, name) for name in _locations(data)]
    if sum(part.size for part in parts) > PAYLOAD_LIMIT:
        raise ModelError("the model with its external data is too large to send")
    return tuple(parts)


def _external(folders: Sequence[str], name: str) -> Part:
    what = f"the external data {name!r} of the model"
    if not is_inside(name) or name == _MODEL:
        raise ModelError(f"{what} lies outside its folder; copy it beside the model")
    path = Path(data_file(name, folders, what))
    return Part(name, path, path.stat().st_size)


def _locations(model: bytes) -> list[str]:
    """Names of the files that tensors are in."""
    proto = parse(model)
    external = onnx.TensorProto.EXTERNAL
    found = () if proto is None else (one for one in tensors_of(proto) if one.data_location == external)
    return list(dict.fromkeys(map(location_of, found)))
