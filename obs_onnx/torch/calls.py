"""What a module does when it is called: which of its modules run, in which order, and what follows what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["NORMS", "Calls", "record", "untouched"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

Paths = Mapping[str, str]


@dataclass(frozen=True)
class Calls:
    """One call of a module.

    Attributes:
        order: paths of the modules in it, in the order in which their calls begin; one that is called twice
            stands there twice. The module itself is ``""``.
        norms: path of a module -> that of the batch normalization that takes its output.
        outputs: what the module gave, tensors in order.
    """

    order: tuple[str, ...]
    norms: Paths
    outputs: tuple[torch.Tensor, ...]

    def of(self, path: str) -> list[int]:
        """When a module is called; of one that another one calls by its parts, when that one is."""
        while path and path not in self.order:
            path = path.rpartition(".")[0]
        return [place for place, one in enumerate(self.order) if one == path]


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """The module in inference mode, without gradients; every part goes back to its own mode."""
    modes = {one: one.training for one in module.modules()}
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for one, training in modes.items():
            one.training = training


def record(module: nn.Module, args: Sequence[object]) -> Calls:
    """Call a module and look at what it does."""
    order: list[str] = []
    made: list[tuple[torch.Tensor, str]] = []  # tensors are held: no other one gets their place
    norms: dict[str, str] = {}
    handles = []
    for path, one in module.named_modules():

        def begin(one: nn.Module, inputs: tuple[object, ...], path: str = path) -> None:
            order.append(path)
            if isinstance(one, NORMS) and inputs:
                norms.update({source: path for tensor, source in made if tensor is inputs[0]})

        def end(one: nn.Module, inputs: object, output: object, path: str = path) -> None:
            if isinstance(output, torch.Tensor) and not isinstance(one, NORMS):
                made.append((output, path))

        handles += [one.register_forward_pre_hook(begin), one.register_forward_hook(end)]
    try:
        with untouched(module):
            outputs = tuple(_tensors(module(*args)))
    finally:
        for handle in handles:
            handle.remove()
    return Calls(tuple(order), norms, outputs)


def _tensors(found: object) -> Iterator[torch.Tensor]:
    """Tensors of nested tuples, lists and mappings, in order."""
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, Mapping):
        for each in found.values():
            yield from _tensors(each)
    elif isinstance(found, Sequence) and not isinstance(found, str):
        for each in found:
            yield from _tensors(each)
