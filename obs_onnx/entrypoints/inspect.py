"""inspect(): what is in a model, before anything is measured."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from obs_onnx.calibration.layer_weights import weight_of
from obs_onnx.data.fixed import with_fixed
from obs_onnx.entrypoints.options.inspect import InspectOptions
from obs_onnx.entrypoints.options.keywords import takes
from obs_onnx.io.onnx_file import ModelLike, open_model
from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.passes.canonical.plainer.integer_layers import opened
from obs_onnx.passes.channels.coupling import couple
from obs_onnx.passes.costs.macs import macs_per_node
from obs_onnx.passes.costs.memory import Peak, lifetimes, peak_memory, static_sizes
from obs_onnx.passes.costs.model_costs import Costs
from obs_onnx.passes.errors import OptionError, boundary, named
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.interface.caches import changing
from obs_onnx.passes.layers.find_layers import find_layers
from obs_onnx.passes.layers.parameters import parameters
from obs_onnx.passes.shapes.concrete import concretize
from obs_onnx.results.inspection import InspectedGroup, InspectedLayer, Inspection
from obs_onnx.runtimes import calibration_runtime
from obs_onnx.runtimes.observed_shapes import declare_shapes

__all__ = ["inspect"]


@takes(InspectOptions)
def inspect(model: ModelLike, options: InspectOptions) -> Inspection:
    """Layers and channels of a model, and what is left alone and why.

    Args:
        model: a file, or a model in memory (which is not changed).
        options: see :class:`obs_onnx.entrypoints.options.inspect.InspectOptions`.

    Raises:
        ModelError: see :func:`obs_onnx.io.onnx_file.load_model`.
        OptionError: a size that no input has, or there are no caches.
    """
    read, name, _ = open_model(model, None)
    with boundary(f"{name} cannot be analysed"):
        given = _sized(with_fixed(read, options.fix), options.lengths)
        caches = changing(given, name) if options.change_caches else None
        inner = given if caches is None else caches.inner(given)
        names = frozenset[str]() if caches is None else caches.names
        return _inspected(name, declare_shapes(calibration_runtime, inner), names)


def _sized(model: ir.Model, sizes: Mapping[str, int]) -> ir.Model:
    """A copy whose inputs have the sizes that are given for names of their axes.

    Raises:
        OptionError: no input has such a name.
    """
    if not sizes:
        return model
    names = _free(model)
    for name in sizes:
        if name not in names:
            known = f"the names are {', '.join(names)}" if names else "all sizes are fixed"
            raise OptionError(f"{named('sizes')} {name}: no input has an axis of that name, {known}")
    copy = model.clone()
    for value in real_inputs(copy):
        dims = [dim if isinstance(dim, int) else sizes.get(str(dim.value), dim) for dim in value.shape or ()]
        if value.shape is not None:
            value.shape = ir.Shape(dims)
    return copy


def _free(model: ir.Model) -> list[str]:
    """Names of the free sizes of the inputs."""
    dims = [dim for value in real_inputs(model) for dim in value.shape or () if not isinstance(dim, int)]
    return list(dict.fromkeys(dim.value or "an axis without a name" for dim in dims))


def _inspected(path: str, model: ir.Model, caches: Collection[str]) -> Inspection:
    count = sum(one.size for one in parameters(opened(model)))
    canonical = canonicalize(model)
    layers, frozen = find_layers(canonical)
    macs = macs_per_node(canonical, _shapes(canonical))
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
    coupling = couple(prepare(model), caches=caches)
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
        {
            str(value.name): tuple(dim if isinstance(dim, int) else 1 for dim in value.shape)
            for value in real_inputs(model)
            if value.shape is not None
        },
        tuple(_free(model)),
    )


def _shapes(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Shapes of all values whose sizes follow from those of the inputs, free ones counting as one."""
    single = model.clone()
    for value in single.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([dim if isinstance(dim, int) else 1 for dim in value.shape])
    return {str(value.name): shape for value, shape in concretize(single).shapes.items()}


def _peak(model: ir.Model) -> Peak | None:
    sizes = static_sizes(model)
    known = all(str(value.name) in sizes for value in lifetimes(model.graph))
    return peak_memory(model, sizes) if known else None
