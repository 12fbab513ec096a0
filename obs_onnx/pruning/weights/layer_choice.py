"""Which layers take part, by the user's patterns and by what a sparsity pattern can be laid over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.graph.names import chosen
from obs_onnx.passes.layers.layer import Frozen, Layer
from obs_onnx.passes.traits.linear import ConvGeometry
from obs_onnx.solvers import Pattern

__all__ = ["Choice", "choose_layers", "layer_sparsities", "matching"]


@dataclass(frozen=True)
class Choice:
    """What happens to which layer.

    Attributes:
        pruned: layers that lose weights.
        dense: layers that lose none, yet are refitted to what the pruned layers before them give.
        kept: layers left exactly as they are.
        reasons: for all that are not pruned.
    """

    pruned: tuple[Layer, ...]
    dense: tuple[Layer, ...]
    kept: tuple[Layer, ...]
    reasons: tuple[Frozen, ...]


def matching(layers: Sequence[Layer], pattern: str) -> list[Layer]:
    """Layers whose weight, or a node that uses it, has a name, or one that a shell pattern matches."""
    names = [{layer.name, *(use.node for use in layer.uses)} for layer in layers]
    wanted = chosen(pattern, set().union(*names))
    return [layer for layer, own in zip(layers, names, strict=True) if own & wanted]


def choose_layers(layers: Iterable[Layer], protect: Sequence[str], pattern: Pattern) -> Choice:
    """Sort the layers by what will happen to them.

    Runs of an N:M pattern and rows of a block lie along the input channels (of one kernel offset, for
    convolutions); layers whose channels they do not divide stay dense.

    Args:
        layers: all layers of the model.
        protect: names or shell patterns; a layer whose weight or node has a matching name is left alone.
        pattern: of the zeros.

    Raises:
        OptionError: a pattern in ``protect`` matches nothing.
    """
    layers = list(layers)
    protected: set[str] = set()
    for text in protect:
        found = matching(layers, text)
        protected.update(layer.name for layer in found)
        if not found:
            raise OptionError(f"{named('protect')} {text!r} matches no layer: run inspect to see their names")
    pruned: list[Layer] = []
    dense: list[Layer] = []
    kept: list[Layer] = []
    reasons: list[Frozen] = []
    for layer in layers:
        geometry = layer.uses[0].geometry
        offsets = math.prod(geometry.kernel) if isinstance(geometry, ConvGeometry) else 1
        channels = layer.layout.goi[2] // offsets
        if layer.name in protected:
            kept.append(layer)
            reasons.append(Frozen(layer.uses[0].node, layer.op_type, "protected by the user"))
        elif channels % pattern.columns:
            reason = f"{channels} input channels are no multiple of {pattern.columns} (pattern {pattern})"
            dense.append(layer)
            reasons.append(Frozen(layer.uses[0].node, layer.op_type, reason))
        else:
            pruned.append(layer)
    return Choice(tuple(pruned), tuple(dense), tuple(kept), tuple(reasons))


def layer_sparsities(layers: Sequence[Layer], given: Mapping[str, float]) -> dict[str, float]:
    """Sparsities that the user set, by layer name.

    Args:
        layers: that take part.
        given: name or shell pattern -> sparsity in [0, 1]; the last match counts.

    Raises:
        OptionError: a pattern matches nothing, or a sparsity is out of range.
    """
    fixed: dict[str, float] = {}
    for text, value in given.items():
        names = [layer.name for layer in matching(layers, text)]
        if not names:
            raise OptionError(
                f"{named('layer_sparsity')} {text}={value} matches no layer: run inspect to see their names"
            )
        if not 0 <= value <= 1:
            raise OptionError(f"{named('layer_sparsity')} {text}={value}: give a share between 0 and 1")
        fixed.update(dict.fromkeys(names, value))
    return fixed
