"""Running statistics of batch normalization, measured anew without a change of what the module computes.

Weights in front were refitted, so that what comes in is not what it was. In training the statistics of the
batch count: with those of the data in the module, both modes start from the same outputs.

    s (x - mean) + beta  =  s (x - mean') + (beta + s (mean' - mean)),    s = gamma / sqrt(var + eps)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from obs_onnx.torch.calls import NORMS, untouched

__all__ = ["settle"]

_CONSTANT = 1e-10  # variance of a channel that says nothing


@dataclass
class _Sums:
    """Of what came into one module: number of values, their sum and the sum of their squares, (C,)."""

    count: int
    first: torch.Tensor
    second: torch.Tensor


def settle(module: nn.Module, batches: Iterable[Sequence[object]]) -> None:
    """Measure running means and variances on data, in place; outputs in inference stay as they are.

    Args:
        module: any.
        batches: arguments of its calls.
    """
    sums: dict[nn.Module, _Sums] = {}

    def look(one: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        x = inputs[0].detach().to(torch.float64)
        x = x.transpose(0, 1).flatten(1) if x.ndim > 1 else x[:, None]
        held = sums.setdefault(one, _Sums(0, torch.zeros_like(x[:, 0]), torch.zeros_like(x[:, 0])))
        held.count += x.shape[1]
        held.first += x.sum(1)
        held.second += x.square().sum(1)

    norms = [one for one in module.modules() if isinstance(one, NORMS) and one.running_mean is not None]
    handles = [one.register_forward_pre_hook(look) for one in norms if one.weight is not None]
    try:
        with untouched(module):
            for args in batches:
                module(*args)
    finally:
        for handle in handles:
            handle.remove()
    with torch.no_grad():
        for one, held in sums.items():
            _express(one, held)


def _express(one: nn.Module, held: _Sums) -> None:
    """Write a batch normalization by other statistics."""
    mean, var, weight, bias = (
        getattr(one, name).to(torch.float64) for name in ("running_mean", "running_var", "weight", "bias")
    )
    new_mean = held.first / held.count
    new_var = held.second / held.count - new_mean.square()
    told = new_var > _CONSTANT
    new_mean, new_var = torch.where(told, new_mean, mean), torch.where(told, new_var, var)
    s = weight / (var + one.eps).sqrt()
    one.weight.copy_(s * (new_var + one.eps).sqrt())
    one.bias.copy_(bias + s * (new_mean - mean))
    one.running_mean.copy_(new_mean)
    one.running_var.copy_(new_var)
