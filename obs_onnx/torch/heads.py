"""Attention that is written out in a module of the user's: how many heads it says that it has.

Such a module holds projections and numbers under names that the field agrees on. Whether its code goes by
them is not asked: the outputs are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from obs_onnx.torch.attention import heads_of
from obs_onnx.torch.calls import Calls
from obs_onnx.torch.weights import Cut, Name

__all__ = ["Narrower", "resize_heads"]

COUNTS = ("num_heads", "n_heads", "n_head", "heads", "nhead", "num_attention_heads")
WIDTHS = ("head_dim", "dim_head", "head_size", "attention_head_size")
TOTALS = ("all_head_size", "inner_dim", "attn_dim")
OUTSIDE = ("embed_dim", "hidden_size", "hidden_dim", "dim", "n_embd", "d_model")


@dataclass(frozen=True)
class Narrower:
    """Heads that are narrower than they were.

    Products of queries and keys are divided by the root of the width that was. Code that takes the width from
    the tensors, as ``scaled_dot_product_attention`` does, needs larger or smaller queries for that.

    Attributes:
        projection: gives the queries first.
        rows: how many of its outputs are queries.
        factor: the root of new by old width.
    """

    projection: nn.Linear
    rows: int
    factor: float

    def scale(self) -> None:
        """Multiply the queries, in place."""
        with torch.no_grad():
            self.projection.weight[: self.rows] *= self.factor
            if self.projection.bias is not None:
                self.projection.bias[: self.rows] *= self.factor


def resize_heads(module: nn.Module, cuts: Mapping[Name, Cut], calls: Calls) -> list[Narrower]:
    """Correct what modules say of their heads and widths, in place.

    Raises:
        ModelError: heads differ in width.
    """
    found = []
    for path, one in module.named_modules():
        if type(one).__module__.startswith("torch.nn."):
            continue
        _resize_width(one, path, cuts)
        counts = [name for name in COUNTS if isinstance(vars(one).get(name), int)]
        if not counts or isinstance(one, nn.MultiheadAttention):
            continue
        inside = [
            (calls.of(full)[0], cut, child)
            for name, child in one.named_children()
            if isinstance(child, nn.Linear)
            and (cut := cuts.get((full := f"{path}.{name}".lstrip("."), "weight"))) is not None
            and calls.of(full)
        ]
        inside.sort(key=lambda each: each[0])
        if len(inside) > 1:
            found += _renumber(one, path, [(cut, child) for _, cut, child in inside], counts)
    return found


def _resize_width(one: nn.Module, path: str, cuts: Mapping[Name, Cut]) -> None:
    """What a module says of the width between its parts, where they agree on the new one."""
    weights = [cuts.get((f"{path}.{name}".lstrip("."), "weight")) for name, _ in one.named_children()]
    for attribute in OUTSIDE:
        width = vars(one).get(attribute)
        new = {len(cut.kept[0]) for cut in weights if cut is not None and cut.shape[0] == width}
        if isinstance(width, int) and len(new) == 1:
            setattr(one, attribute, new.pop())


def _renumber(
    one: nn.Module, path: str, inside: list[tuple[Cut, nn.Linear]], counts: list[str]
) -> list[Narrower]:
    """One module, with its projections as they are called: the last one takes what the heads give."""
    heads = int(getattr(one, counts[0]))
    (first, projection), (last, _) = inside[0], inside[-1]
    total = last.shape[1]
    if total % heads or first.shape[0] % total:
        return []
    rows = first.kept[0][first.kept[0] < total]
    kept, width = heads_of(rows, total, heads, f"{path}.*")
    new = dict.fromkeys(counts, kept)
    new |= {name: width for name in WIDTHS if vars(one).get(name) == total // heads}
    new |= {name: kept * width for name in TOTALS if vars(one).get(name) == total}
    new |= {name: len(first.kept[1]) for name in OUTSIDE if vars(one).get(name) == first.shape[1]}
    for attribute, value in new.items():
        setattr(one, attribute, value)
    if width == total // heads:
        return []
    return [Narrower(projection, len(rows), (width * heads / total) ** 0.5)]
