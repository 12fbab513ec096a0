"""The files that a model is read from, without loading it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from obs_onnx.io.external_data import folders_of, location_of, possible_files
from obs_onnx.io.onnx_checks import tensors_of
from obs_onnx.io.onnx_file import ModelLike, parse
from obs_onnx.io.tensors import tensors

__all__ = ["files_of"]


def files_of(model: ModelLike) -> list[Path]:
    """The file of a model, if it has one, and those that its weights lie in."""
    if isinstance(model, ir.Model):
        return sorted({Path(one.path) for one in tensors(model) if isinstance(one, ir.ExternalTensor)})
    if isinstance(model, onnx.ModelProto):
        return _external(model, (".",))
    if not isinstance(model, str | os.PathLike):
        return []
    path = Path(model)
    if not path.is_file():
        return [path]
    proto = parse(path.read_bytes())
    return [path] if proto is None else [path, *_external(proto, folders_of(path))]


def _external(proto: onnx.ModelProto, folders: Sequence[str]) -> list[Path]:
    names = {
        location_of(tensor)
        for tensor in tensors_of(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    places = [possible_files(name, folders) for name in sorted(names) if name and "\0" not in name]
    return [Path(next(filter(os.path.exists, files), files[0])) for files in places]
