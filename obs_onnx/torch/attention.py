"""Attention with fewer heads or narrower ones than :class:`torch.nn.MultiheadAttention` can have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from obs_onnx.passes.errors import ModelError

__all__ = ["SlicedAttention", "heads_of"]


def heads_of(kept: NDArray[np.int64], size: int, heads: int, name: str) -> tuple[int, int]:
    """How many heads stay, and how wide they are.

    Args:
        kept: positions that stay.
        size: how many there were.
        heads: how many heads they made up.
        name: of the parameter.

    Raises:
        ModelError: heads differ in width.
    """
    mask = np.zeros(size, bool)
    mask[kept] = True
    widths = mask.reshape(heads, -1).sum(1)
    if len(found := set(widths[widths > 0].tolist())) != 1:
        raise ModelError(f"{name} keeps heads of different widths: keep them with protect={name!r}")
    return int((widths > 0).sum()), int(found.pop())


class SlicedAttention(nn.MultiheadAttention):
    """The same with a width of queries and keys, one of values, and one of what goes in and out, each its
    own.

    Args:
        old: what it is made of; its parameters are those of this one, as they are now.
        rows: of ``in_proj_weight`` that are queries, keys and values.
        heads: number of heads.
        width: of a head of ``old``, which scales products of queries and keys.
    """

    def __init__(self, old: nn.MultiheadAttention, rows: Sequence[int], heads: int, width: int) -> None:
        nn.Module.__init__(self)
        self.in_proj_weight, self.in_proj_bias = old.in_proj_weight, old.in_proj_bias
        self.q_proj_weight, self.k_proj_weight = old.q_proj_weight, old.k_proj_weight
        self.v_proj_weight, self.out_proj = old.v_proj_weight, old.out_proj
        self.bias_k = self.bias_v = None
        self.add_zero_attn, self.batch_first, self.dropout = False, old.batch_first, old.dropout
        self.rows, self.num_heads, self.scale = tuple(rows), heads, width**-0.5
        self.embed_dim = self.kdim = self.vdim = old.out_proj.weight.shape[0]
        self._qkv_same_embed_dim = False  # so that layers around it call it, and do not take it apart
        self.training = old.training

    def extra_repr(self) -> str:
        """Heads and widths."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, rows={self.rows}"

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As :meth:`torch.nn.MultiheadAttention.forward`."""
        batched = query.ndim == 3
        given = [x if batched else x[None] for x in (query, key, value)]
        if batched and not self.batch_first:
            given = [x.transpose(0, 1) for x in given]
        weights: Sequence[torch.Tensor] = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.split(self.rows)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.split(self.rows)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip(given, weights, biases, strict=True)
        )
        scores = q @ k.transpose(-2, -1) * self.scale
        for mask in self._masks(scores, key_padding_mask, attn_mask, is_causal):
            scores = scores + mask
        shares = F.dropout(scores.softmax(-1), self.dropout, self.training)
        out = self.out_proj((shares @ v).transpose(1, 2).flatten(2))
        out = out.transpose(0, 1) if batched and not self.batch_first else out
        told = shares.mean(1) if average_attn_weights else shares
        out, told = (out, told) if batched else (out[0], told[0])
        return out, told if need_weights else None

    def _masks(
        self,
        scores: torch.Tensor,
        padding: torch.Tensor | None,
        mask: torch.Tensor | None,
        is_causal: bool,
    ) -> list[torch.Tensor]:
        """What is added to scores of shape (N, heads, queries, keys)."""
        found = []
        if mask is None and is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        if mask is not None:
            mask = mask.unflatten(0, (len(scores), -1))[:, : self.num_heads] if mask.ndim == 3 else mask
            found.append(_added(mask, scores))
        if padding is not None:
            found.append(_added(padding.reshape(len(scores), 1, 1, -1), scores))
        return found


def _added(mask: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A mask as numbers: True is nothing that may be looked at."""
    if mask.dtype != torch.bool:
        return mask.to(scores.dtype)
    return torch.zeros_like(mask, dtype=scores.dtype).masked_fill(mask, float("-inf"))
