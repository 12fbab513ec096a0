"""What a report shows of layers and groups: widths, and how damage grows as they shrink."""

from __future__ import annotations

import math

from obs_onnx.allocation.curves import Curve
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.traits.linear import ConvGeometry
from obs_onnx.results.pruning import CurvePoint

__all__ = ["points_of", "widths_of"]


def widths_of(layer: Layer) -> tuple[int, int]:
    """Channels that go in and that come out; of a convolution without its kernel."""
    (groups, outputs, inputs), geometry = layer.layout.goi, layer.uses[0].geometry
    kernel = math.prod(geometry.kernel) if isinstance(geometry, ConvGeometry) else 1
    return groups * inputs // max(kernel, 1), groups * outputs


def points_of(curve: Curve | None, size: int) -> tuple[CurvePoint, ...]:
    """A curve as it was measured, as shares of ``size`` that are kept; empty where there is none."""
    if curve is None or not size:
        return ()
    share = curve.size / size
    return tuple(
        CurvePoint(share * (1 - removed), damage)
        for removed, damage in zip(curve.sparsities, curve.damages, strict=True)
    )
