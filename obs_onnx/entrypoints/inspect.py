"""inspect(): what is in a model, before anything is measured."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from obs_onnx.calibration.layer_weights import weight_of
from obs_onnx.data.fixed import Fixed, with_fixed
from obs_onnx.io.onnx_file import load_model
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.costs.macs import macs_per_node
from obs_onnx.passes.costs.memory import Peak, lifetimes, peak_memory, static_sizes
from obs_onnx.passes.costs.model_costs import Costs
from obs_onnx.passes.errors import boundary
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.parameters import parameters
from obs_onnx.results.inspection import InspectedGroup, InspectedLayer, Inspection
from obs_onnx.runtimes import calibration_runtime
from obs_onnx.runtimes.observed_shapes import declare_shapes

__all__ = ["inspect"]


def inspect(
    path: str | os.PathLike[str], *, custom_domains: Sequence[str] = (), fix: Fixed = ()
) -> Inspection:
    """Layers and channels of a model file, and what is left alone and why.

    Args:
        path: the file.
        custom_domains: domains of operators whose library the caller has; others are shown as well.
        fix: inputs that are set first, see :data:`obs_onnx.data.fixed.Fixed`.

    Raises:
        ModelError: see :func:`obs_onnx.io.onnx_file.load_model`.
    """
    model = load_model(path, custom_domains=None)
    with boundary(f"{path} cannot be analysed"):
        return _inspected(str(path), declare_shapes(calibration_runtime, with_fixed(model, fix)))


def _inspected(path: str, model: ir.Model) -> Inspection:
    count = sum(one.size for one in parameters(model))
    canonical = canonicalize(model)
    layers, frozen = find_layers(canonical)
    macs = macs_per_node(canonical)
    found = []
    for layer in layers:
        nodes = tuple(use.node for use in layer.uses)
        found.append(
            InspectedLayer(
                layer.name,
                layer.op_type,
                layer.layout.shape,
                layer.size,
                int(np.count_nonzero(weight_of(canonical, layer))),
                sum(macs.get(node, 0) for node in nodes),
                nodes,
            )
        )
    coupling = couple(prepare(model))
    cost = Costs(coupling).macs
    scale = sum(macs.values()) / max(cost.value({}), 1)
    groups = tuple(
        InspectedGroup(
            group.name,
            group.n,
            tuple((site.initializer, site.axis) for site in group.sites),
            round(float(cost.saving({}, group.id, 1)) * scale),
        )
        for group in coupling.groups
    )
    return Inspection(
        path,
        tuple(found),
        groups,
        tuple(frozen),
        tuple(coupling.frozen),
        count,
        sum(macs.values()),
        _peak(canonical),
    )


def _peak(model: ir.Model) -> Peak | None:
    sizes = static_sizes(model)
    known = all(str(value.name) in sizes for value in lifetimes(model.graph))
    return peak_memory(model, sizes) if known else None
