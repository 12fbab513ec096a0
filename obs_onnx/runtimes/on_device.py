"""Values that stay where a runtime computes, until somebody here looks at them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["OnDevice", "also"]


class OnDevice(Mapping[str, NDArray[Any]]):
    """Arrays by name, each in memory of the runtime or of this process; it is copied here when asked for.

    Args:
        held: values of onnxruntime, and arrays.
    """

    def __init__(self, held: Mapping[str, Any]) -> None:
        self.held = dict(held)

    def __getitem__(self, name: str) -> NDArray[Any]:
        value = self.held[name]
        return value if isinstance(value, np.ndarray) else np.asarray(value.numpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self.held)

    def __len__(self) -> int:
        return len(self.held)

    @property
    def nbytes(self) -> int:
        """Of all values."""
        return sum(
            one.nbytes if isinstance(one, np.ndarray) else one.tensor_size_in_bytes()
            for one in self.held.values()
        )

    def only(self, names: Iterable[str]) -> OnDevice:
        """Some of the values, where they are."""
        return OnDevice({name: self.held[name] for name in names})


def also(values: Mapping[str, NDArray[Any]], more: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
    """All of both, where they are; of a name that both have, ``more`` counts."""
    return OnDevice({**values.held, **more}) if isinstance(values, OnDevice) else {**values, **more}
