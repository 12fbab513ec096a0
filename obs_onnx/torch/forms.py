"""How the parameters of modules may lie in the initializers that an exporter writes.

A form says for each element of a tensor which element of the parameter it is, and by what it was multiplied
where batch normalization was folded into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from obs_onnx.torch.calls import Calls

__all__ = ["BIASES", "WEIGHTED", "Form", "array", "factors", "forms", "locate"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
BIASES = ("bias", "in_proj_bias")

Array = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Form:
    """One way in which a parameter, or some rows of it, lies in a tensor.

    Attributes:
        path: of the module that holds it.
        name: of the parameter or buffer there.
        places: flat positions in the parameter, for the elements of the tensor in order.
        values: what the tensor holds then, shape of ``places``.
        norm: path of the batch normalization that is folded in.
        knows_bias: the module has a bias that goes with it.
    """

    path: str
    name: str
    places: Places
    values: Array
    norm: str | None = None
    knows_bias: bool = False


def array(tensor: torch.Tensor) -> Array:
    """A tensor in float64."""
    return np.asarray(tensor.detach().cpu().to(torch.float64).numpy())


def factors(norm: nn.Module) -> Array:
    """What batch normalization multiplies each channel by in inference, shape (C,)."""
    var = array(norm.get_buffer("running_var"))
    gamma = np.ones(len(var)) if norm.weight is None else array(norm.get_parameter("weight"))
    return np.asarray(gamma / np.sqrt(var + float(norm.eps)))


def locate(one: nn.Module, name: str, places: Places) -> Places:
    """Which outputs of a module elements of its weight belong to: positions in its bias."""
    shape = tuple(getattr(one, name).shape)
    index = np.unravel_index(places, shape)
    if isinstance(one, TRANSPOSED):  # (inputs, outputs of a group, ...)
        return np.asarray(index[0] // (shape[0] // one.groups) * shape[1] + index[1])
    if isinstance(one, nn.MultiheadAttention):  # one bias for all three
        return np.asarray(index[0] + {"k_proj_weight": 1, "v_proj_weight": 2}.get(name, 0) * one.embed_dim)
    return np.asarray(index[0])


def forms(module: nn.Module, calls: Calls) -> list[Form]:
    """All of them, for all parameters and buffers of floating-point numbers."""
    modules, found = dict(module.named_modules()), list[Form]()
    for path, one in modules.items():
        knows = isinstance(one, (*WEIGHTED, nn.MultiheadAttention))
        for name, tensor in [*one.named_parameters(recurse=False), *one.named_buffers(recurse=False)]:
            if not tensor.is_floating_point():
                continue
            values = array(tensor)
            places = np.arange(values.size, dtype=np.int64).reshape(values.shape)
            found += _written(Form(path, name, places, values, None, knows))
            if name == "weight" and isinstance(one, WEIGHTED) and path in calls.norms:
                s = factors(modules[calls.norms[path]])
                rows = locate(one, name, places.reshape(-1)).reshape(places.shape)
                if rows.max(initial=0) < len(s):
                    found += _written(Form(path, name, places, values * s[rows], calls.norms[path], knows))
            if isinstance(one, nn.MultiheadAttention) and name == "in_proj_weight":
                e = one.embed_dim
                for first, last in ((0, e), (e, 3 * e), (e, 2 * e), (2 * e, 3 * e)):
                    part = Form(path, name, places[first:last], values[first:last], None, knows)
                    found += _written(part)
    return found


def _written(form: Form) -> Iterator[Form]:
    """As it is, and a matrix the other way round."""
    yield replace(form, places=form.places.reshape(-1), values=form.values.reshape(-1))
    if form.places.ndim == 2 and min(form.places.shape) > 1:
        yield replace(form, places=form.places.T.reshape(-1), values=form.values.T.reshape(-1))
