"""Modules with new parameters, and what modules say of the sizes of theirs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from obs_onnx.passes.errors import ModelError
from obs_onnx.torch.attention import SlicedAttention, heads_of
from obs_onnx.torch.calls import NORMS
from obs_onnx.torch.forms import CONVOLUTIONS, TRANSPOSED
from obs_onnx.torch.weights import PACKED, Cut, Name

__all__ = ["operate"]

_INSTANCE = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def operate(module: nn.Module, cuts: Mapping[Name, Cut]) -> tuple[str, ...]:
    """Give a module new parameters, in place.

    Returns:
        Notes for the reader.

    Raises:
        ModelError: a module of this kind cannot have the new sizes.
    """
    modules, notes = dict(module.named_modules()), list[str]()
    shared: dict[int, tuple[str, Cut, torch.Tensor]] = {}
    for (path, name), cut in cuts.items():
        one = modules[path]
        old: torch.Tensor | None = getattr(one, name)
        if old is not None and id(old) in shared:
            first, same, new = shared[id(old)]
            if same.values.shape == cut.values.shape and np.allclose(
                same.values, cut.values, rtol=0, atol=1e-6
            ):
                setattr(one, name, new)
                continue
            notes.append(
                f"{path}.{name} and {first} were one parameter and are two: they were refitted apart"
            )
        new = _renewed(one, name, old, cut)
        if old is not None:
            shared[id(old)] = (f"{path}.{name}".lstrip("."), cut, new)
    parts = {path: {name: cut for (p, name), cut in cuts.items() if p == path} for path, _ in cuts}
    for path, own in parts.items():
        _resize(modules[path], own, path)
    for path, one in modules.items():
        if isinstance(one, nn.MultiheadAttention) and (other := _attention(one, path, cuts)) is not None:
            parent, _, last = path.rpartition(".")
            setattr(modules[parent], last, other)
    return tuple(notes)


def _renewed(one: nn.Module, name: str, old: torch.Tensor | None, cut: Cut) -> torch.Tensor:
    """Set a new parameter or buffer, of the type and in the place of the old one or of the weight's."""
    like = old if old is not None else next(one.parameters())
    new = torch.from_numpy(np.ascontiguousarray(cut.values)).to(like.dtype).to(like.device)
    if name in one._buffers:
        one.register_buffer(name, new, persistent=name not in one._non_persistent_buffers_set)
        return new
    parameter = nn.Parameter(new, requires_grad=like.requires_grad)
    one.register_parameter(name, parameter)
    return parameter


def _resize(one: nn.Module, cuts: Mapping[str, Cut], path: str) -> None:
    """What a module says of its own sizes."""
    shape = cuts["weight"].values.shape if "weight" in cuts else ()
    if isinstance(one, (*CONVOLUTIONS, *TRANSPOSED)) and shape:
        one.groups = groups = cuts["weight"].groups
        ends = (shape[1] * groups, shape[0])
        one.in_channels, one.out_channels = ends if isinstance(one, CONVOLUTIONS) else ends[::-1]
        if isinstance(one, TRANSPOSED):
            one.in_channels, one.out_channels = shape[0], shape[1] * groups
    elif isinstance(one, nn.Linear) and shape:
        one.out_features, one.in_features = shape
    elif isinstance(one, (nn.Embedding, nn.EmbeddingBag)) and shape:
        one.num_embeddings, one.embedding_dim = shape
    elif isinstance(one, (*NORMS, *_INSTANCE)):
        one.num_features = len(next(iter(cuts.values())).values)
        one.affine = one.weight is not None
    elif isinstance(one, nn.GroupNorm):
        name, cut = next(iter(cuts.items()))
        kept = cut.kept[0]
        one.num_groups, _ = heads_of(kept, cut.shape[0], one.num_groups, f"{path}.{name}")
        one.num_channels = len(kept)
    elif isinstance(one, (nn.LayerNorm, nn.RMSNorm)):
        one.normalized_shape = next(iter(cuts.values())).values.shape
    elif isinstance(one, nn.PReLU) and shape:
        one.num_parameters = shape[0]
    elif isinstance(one, (nn.RNNBase, nn.Bilinear)) and any(
        cut.values.shape != cut.shape for cut in cuts.values()
    ):
        raise ModelError(
            f"{path} ({type(one).__name__}) cannot be cut in PyTorch: keep it with protect={path + '*'!r}"
        )


def _attention(one: nn.MultiheadAttention, path: str, cuts: Mapping[Name, Cut]) -> SlicedAttention | None:
    """Attention of other sizes; None where it is as it was."""
    e, heads = one.embed_dim, one.num_heads
    out = cuts.get((f"{path}.out_proj", "weight"))
    packed = cuts.get((path, PACKED))
    parts = [cuts.get((path, f"{x}_proj_weight")) for x in "qkv"]
    if packed is not None:
        kept = [packed.kept[0][packed.kept[0] // e == part] % e for part in range(3)]
    elif all(part is not None for part in parts):
        kept = [part.kept[0] for part in parts if part is not None]
        one.in_proj_weight = None  # of which they may be parts
    else:
        return None
    if all(cut is None or cut.values.shape == cut.shape for cut in (out, packed, *parts)):
        return None
    if one.bias_k is not None or one.add_zero_attn:
        raise ModelError(
            f"{path} has bias_k or add_zero_attn and cannot be cut: keep it with protect={path + '*'!r}"
        )
    found = [heads_of(k, e, heads, f"{path}.in_proj_weight") for k in kept]
    return SlicedAttention(one, [len(k) for k in kept], found[0][0], e // heads)
