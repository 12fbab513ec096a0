"""How an operator multiplies by a constant: where weight, data and bias are, and the layout of the weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from obs_onnx.passes.traits.integers import Integers

__all__ = ["ConvGeometry", "Linear", "MatmulGeometry", "WeightLayout"]


@dataclass(frozen=True)
class ConvGeometry:
    """How a (transposed) convolution lays its kernel over ``x`` of shape (N, G * I, *spatial).

    Attributes:
        kernel, strides, dilations: one entry per spatial axis.
        pads: begin of every axis, then end of every axis (ONNX order); ignored unless ``auto_pad`` is NOTSET.
        auto_pad: NOTSET, VALID, SAME_UPPER or SAME_LOWER.
        groups: number of groups.
        transposed: True for ConvTranspose.
        output_padding: ConvTranspose only, one entry per spatial axis.
        output_shape: ConvTranspose only; the requested spatial shape, or None.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    auto_pad: str = "NOTSET"
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()
    output_shape: tuple[int, ...] | None = None

    @property
    def uniform(self) -> bool:
        """Whether a constant input gives the same everywhere: nothing is padded."""
        padded = any(self.pads) if self.auto_pad == "NOTSET" else self.auto_pad != "VALID"
        return not (self.transposed or padded)


@dataclass(frozen=True)
class MatmulGeometry:
    """Which axis of ``x`` and of ``y`` the weight contracts and makes.

    Attributes:
        input_axis: -1 or -2, axis of ``x`` that is summed over.
        output_axis: -1 or -2, axis of ``y`` that the weight's outputs span.
        groups: product of the weight's own leading (batch) dimensions, which are then also those of ``x``.
    """

    input_axis: int = -1
    output_axis: int = -1
    groups: int = 1

    @property
    def uniform(self) -> bool:
        """Whether a constant input gives the same everywhere."""
        return True


@dataclass(frozen=True)
class WeightLayout:
    """Reversible way from the stored tensor to ``w_GOI``: reshape to ``split``, transpose, reshape.

    Attributes:
        shape: of the stored tensor.
        split: shape after the first reshape.
        perm: axes order that puts groups, then outputs, then inputs.
        goi: (groups, outputs per group, inputs per group).
        scale: factor between the stored tensor and the effective weight (alpha of Gemm).
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    perm: tuple[int, ...]
    goi: tuple[int, int, int]
    scale: float = 1.0

    def to_matrix(self, tensor: NDArray[np.generic]) -> NDArray[np.float64]:
        """Effective weight ``w_GOI`` in float64 of the stored ``tensor``."""
        w_GOI = tensor.astype(np.float64).reshape(self.split).transpose(self.perm).reshape(self.goi)
        return np.asarray(w_GOI * self.scale, dtype=np.float64)

    def to_tensor(self, w_GOI: NDArray[np.floating]) -> NDArray[np.float64]:
        """Stored tensor (float64) of the effective weight; inverse of :meth:`to_matrix`."""
        permuted = tuple(self.split[axis] for axis in self.perm)
        inverse = tuple(np.argsort(self.perm))
        tensor = (w_GOI / self.scale).reshape(permuted).transpose(inverse).reshape(self.shape)
        return np.asarray(tensor, dtype=np.float64)


@dataclass(frozen=True)
class Linear:
    """What an operator's table says about one node that multiplies by a constant weight.

    Attributes:
        weight_input, data_input: positions among the node's inputs.
        bias_input: position of a constant per-output bias, or None.
        bias_scale: factor on that bias (beta of Gemm).
        bias_behind: True of an operator without an input for a bias, which is what an Add behind it adds.
        layout, geometry: see there.
        integers: how the weight is stored, where that is not as the node multiplies by it.
        bias_integers: likewise for the bias.
        input_scale: name of the scale of the input, where the scale of the bias is that times the weight's.
    """

    weight_input: int
    data_input: int
    layout: WeightLayout
    geometry: ConvGeometry | MatmulGeometry
    bias_input: int | None = None
    bias_scale: float = 1.0
    bias_behind: bool = False
    integers: Integers | None = None
    bias_integers: Integers | None = None
    input_scale: str | None = None
