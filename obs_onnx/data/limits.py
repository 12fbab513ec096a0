"""What data may take of the memory, asked before any of it is made."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import psutil
from rich.filesize import decimal

from obs_onnx.data.feeds import TensorSpec
from obs_onnx.passes.errors import DataError, OptionError, named

__all__ = ["check_batch", "check_room", "room"]


def room(memory: int | None = None) -> int:
    """Bytes that data may take at a time: ``memory``, or half of what is free."""
    return memory or int(psutil.virtual_memory().available) // 2


def check_room(what: str, size: int, memory: int | None = None) -> None:
    """Refuse to make what would not fit.

    Args:
        what: of how it is called in the message.
        size: in bytes.
        memory: that is allowed; by default half of what is free.

    Raises:
        DataError: it would not fit.
    """
    if size > (limit := room(memory)):
        raise DataError(
            f"{what} takes {decimal(size)} of memory, more than the {decimal(limit)} that may be used: "
            "give smaller samples"
        )


def check_batch(specs: Sequence[TensorSpec], batch: int) -> None:
    """Refuse a batch of the model's inputs that would not fit, whatever free sizes turn out to be.

    Raises:
        OptionError: it would not fit.
    """
    size = 0
    for spec in specs:
        if spec.shape and not isinstance(spec.shape[0], int):
            least = math.prod(n for n in spec.shape[1:] if isinstance(n, int))
            size += batch * least * max(1, np.dtype(spec.dtype).itemsize)
    if size > (limit := room()):
        raise OptionError(
            f"{named('batch')} {batch}: its inputs take {decimal(size)} of memory, more than the "
            f"{decimal(limit)} that may be used: give a smaller one"
        )
