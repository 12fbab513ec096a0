"""Weights put away in temporary files for as long as something refers to them, so that memory holds few."""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.io.tensors import tensors

__all__ = ["array_outside", "let_go", "let_go_of", "put_away"]

_FILE = "weights"
_LEAST_BYTES = 1 << 16  # smaller tensors stay


class _Folder:
    """A temporary folder that goes when nothing refers to it any more."""

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="obs-onnx-")
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


class _Scratch(ir.ExternalTensor):
    """A tensor in a file of a folder that it holds on to."""

    def __init__(self, like: ir.ExternalTensor, folder: _Folder) -> None:
        super().__init__(
            os.path.join(folder.path, _FILE),
            like.offset,
            like.length,
            like.dtype,
            shape=like.shape,
            name=like.name,
            doc_string=like.doc_string,
            metadata_props=dict(like.metadata_props),
        )
        self._folder = folder


def put_away(model: ir.Model, names: Collection[str] | None = None) -> None:
    """Move large initializers of the main graph that are in memory to a file.

    Args:
        model: it changes.
        names: of initializers; by default of all.
    """
    held = [
        value
        for name, value in model.graph.initializers.items()
        if (names is None or name in names)
        and value.const_value is not None
        and not isinstance(value.const_value, ir.ExternalTensor)
        and value.const_value.dtype != ir.DataType.STRING
        and value.const_value.nbytes > _LEAST_BYTES
    ]
    for value, tensor in zip(held, _written([value.const_value for value in held]), strict=True):
        value.const_value = tensor


def _written(found: Sequence[ir.TensorProtocol | None]) -> list[_Scratch]:
    given = [tensor for tensor in found if tensor is not None]
    if not given:
        return []
    folder = _Folder()
    moved = ir.external_data.convert_tensors_to_external(given, folder.path, _FILE)
    return [_Scratch(tensor, folder) for tensor in moved]


def array_outside(array: NDArray[Any]) -> NDArray[Any]:
    """The array in an unnamed temporary file, mapped; small ones as they are."""
    if array.nbytes <= _LEAST_BYTES:
        return array
    with tempfile.TemporaryFile() as file:
        np.ascontiguousarray(array).tofile(file)
        file.flush()
        return np.memmap(file, dtype=array.dtype, mode="r", shape=array.shape)


def let_go(model: ir.Model) -> None:
    """Give back the memory of mapped weights; they are read again from their files when they are needed."""
    for tensor in tensors(model):
        let_go_of(tensor)


def let_go_of(tensor: ir.TensorProtocol) -> None:
    """The same of one tensor, where the system can do that."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is not None and isinstance(tensor, ir.ExternalTensor) and tensor.raw is not None:
        tensor.raw.madvise(advice)
