"""Arrays in npy and npz files, mapped into memory: read only where they are used, and never believed.

Before anything is unpacked or mapped, what a header declares is compared with what the file holds. The check
sums of an archive are verified once, when it is opened. Pickled objects are never loaded.
"""

from __future__ import annotations

import math
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.lib import format as npy_format

from obs_onnx.data.feeds import Array
from obs_onnx.passes.errors import DataError

__all__ = ["open_npy", "open_npz"]

_CHUNK = 1 << 20
_HEAD = 1 << 14  # bytes; numpy reads headers up to 10,000
_ENCRYPTED = 1  # in the flags of a member
_READ_HEADER = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}


@dataclass(frozen=True)
class _Header:
    """What an npy file says of itself; its ``start`` is the offset of the first value in bytes."""

    shape: tuple[int, ...]
    order: Literal["F", "C"]
    dtype: np.dtype[Any]
    start: int

    @property
    def end(self) -> int:
        """Bytes of the whole file."""
        return self.start + math.prod(self.shape) * self.dtype.itemsize


def open_npy(path: Path) -> Array:
    """A memory-mapped npy file.

    Raises:
        DataError: missing, no npy, pickled objects, or another size than its header declares.
    """
    try:
        with path.open("rb") as file:
            header = _header(file.read(_HEAD), os.fstat(file.fileno()).st_size, str(path))
        return _mapped(path, header, 0)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except DataError:
        raise
    except Exception as error:  # whatever else is wrong with the file
        raise DataError(f"{path}: cannot read it as an npy file of plain numbers: {_line(error)}") from error


def open_npz(path: Path) -> Mapping[str, Array]:
    """Arrays of an npz file: stored members are mapped, compressed ones unpacked to unnamed temporary files.

    Raises:
        DataError: missing, no npz, damaged, encrypted, pickled objects, or a member of another size than its
            header declares.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            if not members:
                raise DataError(f"{path}: holds no arrays: write it with numpy.savez")
            name, count = Counter(info.filename for info in members).most_common(1)[0]
            if count > 1:
                raise DataError(f"{path}: holds {count} arrays {name.removesuffix('.npy')!r}: write it again")
            return {info.filename.removesuffix(".npy"): _member(path, archive, info) for info in members}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except DataError:
        raise
    except Exception as error:  # whatever else is wrong with the archive
        raise DataError(f"{path}: not an npz file, or a damaged one: {_line(error)}") from error


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Array:
    where = f"{path}: array {info.filename.removesuffix('.npy')!r}"
    if info.flag_bits & _ENCRYPTED:
        raise DataError(f"{where} is encrypted: store it without a password")
    try:
        with archive.open(info) as stream:
            head = stream.read(_HEAD)
            header = _header(head, info.file_size, where)
            if info.compress_type != zipfile.ZIP_STORED:
                with tempfile.TemporaryFile() as unpacked:
                    unpacked.write(head)
                    _read(stream, unpacked)
                    unpacked.flush()
                    return _mapped(unpacked, header, 0)
        about = path.stat()
        _verify(path, info.filename, (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns))
        return _mapped(path, header, _data_offset(path, info))
    except DataError:
        raise
    except Exception as error:  # each kind of compression raises its own
        raise DataError(f"{where} is damaged, or cannot be unpacked: {_line(error)}") from error


@lru_cache(maxsize=1 << 16)
def _verify(path: Path, name: str, state: tuple[int, ...]) -> None:
    """Check the sum of a member once for each state of its file; raises what :mod:`zipfile` does."""
    with zipfile.ZipFile(path) as archive, archive.open(name) as stream:
        _read(stream)


def _read(stream: IO[bytes], into: IO[bytes] | None = None) -> None:
    """Read up to the end, where :mod:`zipfile` compares the check sum."""
    while block := stream.read(_CHUNK):
        if into is not None:
            into.write(block)


def _header(head: bytes, held: int, where: str) -> _Header:
    """What an npy file that begins with ``head`` says of itself, which has to agree with the bytes ``held``.

    Raises:
        DataError: it does not, it is no npy file, or the values are objects.
    """
    stream = BytesIO(head)
    try:
        version = npy_format.read_magic(stream)
        shape, fortran, dtype = _READ_HEADER.get(version, npy_format.read_array_header_2_0)(stream)
    except Exception as error:  # numpy's own, and Python's about text that is no dict
        raise DataError(
            f"{where} is damaged: it does not begin as numpy.save writes it; write it again"
        ) from error
    if dtype.hasobject:
        raise DataError(f"{where} holds pickled Python objects: store plain numbers")
    if any(size < 0 or isinstance(size, bool) for size in shape):
        raise DataError(f"{where} is damaged: its header declares the shape {_shown(shape)}")
    found = _Header(shape, "F" if fortran else "C", dtype, stream.tell())
    if found.end != held:
        raise DataError(
            f"{where} is damaged: its header declares {dtype} of shape {_shown(shape)}, "
            f"{_shown(found.end)} bytes, but {held} are there"
        )
    return found


def _mapped(file: Path | IO[bytes], header: _Header, offset: int) -> Array:
    if 0 in header.shape or header.dtype.itemsize == 0:
        return np.empty(header.shape, header.dtype)
    return np.memmap(
        file,
        dtype=header.dtype,
        mode="r",
        offset=offset + header.start,
        shape=header.shape,
        order=header.order,
    )


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a stored member begin: behind its local header of 30 bytes, name and extra field."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset + 26)
        name, extra = np.frombuffer(stream.read(4), "<u2").tolist()
    return int(info.header_offset + 30 + name + extra)


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _line(error: Exception) -> str:
    """An error in one line."""
    return _shown(" ".join(str(error).split())) or type(error).__name__
