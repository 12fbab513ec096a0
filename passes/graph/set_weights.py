"""Write new values into initializers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["STORED", "SetWeights", "hold"]

STORED = "obs_onnx.stored_type"
"""Key in ``Value.meta``: the narrower type that an initializer's values have to fit in."""


def hold(value: ir.Value, array: NDArray[Any]) -> None:
    """Give an initializer other contents, of whatever shape and type."""
    array = np.ascontiguousarray(array)
    value.const_value = ir.Tensor(array, name=value.name)
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))


@dataclass(frozen=True)
class SetWeights(ir.passes.InPlacePass):
    """Replace the contents of initializers of the main graph.

    1. Every array is cast to the initializer's own type (float16, bfloat16, float32, float64; of an integer
       type it takes integers alone).
    2. Shapes, names, and everything that is not mentioned stay as they are.

    All names and shapes are checked before the first initializer changes.

    Attributes:
        values: initializer name -> array of the initializer's shape.

    Raises:
        KeyError: a name is no initializer of the model.
        ValueError: an array has another shape, or is not finite, or holds numbers that the type does not.
    """

    values: Mapping[str, NDArray[Any]]
    name = "set-weights"

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass on ``model``."""
        tensors = {name: self._tensor(model, name, array) for name, array in self.values.items()}
        for name, tensor in tensors.items():
            model.graph.initializers[name].const_value = tensor
        return ir.passes.PassResult(model, modified=bool(tensors))

    def _tensor(self, model: ir.Model, name: str, array: NDArray[Any]) -> ir.Tensor[NDArray[np.generic]]:
        if name not in model.graph.initializers:
            raise KeyError(f"the model has no initializer {name!r}")
        old = model.graph.initializers[name].const_value
        if old is None:
            raise KeyError(f"initializer {name!r} has no values")
        if not old.dtype.is_floating_point() and array.dtype.kind == "f":
            raise ValueError(
                f"initializer {name!r} is of type {old.dtype.name}, the new values are no integers"
            )
        shape = tuple(old.shape.numpy())
        if array.shape != shape:
            raise ValueError(f"initializer {name!r} has shape {shape}, the new values have {array.shape}")
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = model.graph.initializers[name].meta.get(STORED, old.dtype)
            stored = np.ascontiguousarray(array, dtype=narrow.numpy()).astype(old.dtype.numpy(), copy=False)
            stored = stored.reshape(shape)  # numpy makes a row of a single number
        if not old.dtype.is_floating_point():
            if (stored.astype(np.float64) != array.astype(np.float64)).any():
                raise ValueError(f"the new values of initializer {name!r} are no numbers of {old.dtype.name}")
        elif not np.isfinite(stored).all():
            raise ValueError(f"the new values of initializer {name!r} are not finite as {old.dtype.name}")
        return ir.Tensor(
            stored,
            dtype=old.dtype,
            name=name,
            doc_string=old.doc_string,
            metadata_props=dict(old.metadata_props),
        )
