"""The files that a model is read from, without loading it."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import onnx_ir as ir

from obs_onnx.io.onnx_checks import tensors_of
from obs_onnx.io.onnx_file import ModelLike, parse, tensors

__all__ = ["files_of"]


def files_of(model: ModelLike) -> list[Path]:
    """The file of a model, if it has one, and those that its weights lie in."""
    if isinstance(model, ir.Model):
        return sorted({Path(one.path) for one in tensors(model) if isinstance(one, ir.ExternalTensor)})
    if isinstance(model, onnx.ModelProto):
        return _external(model, Path())
    if not isinstance(model, str | os.PathLike):
        return []
    path = Path(model)
    if not path.is_file():
        return [path]
    proto = parse(path.read_bytes())
    return [path] if proto is None else [path, *_external(proto, path.resolve().parent)]


def _external(proto: onnx.ModelProto, folder: Path) -> list[Path]:
    names = {
        entry.value
        for tensor in tensors_of(proto)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location" and "\0" not in entry.value
    }
    return [folder / name for name in sorted(names)]
