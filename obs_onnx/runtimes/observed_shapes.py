"""Shapes behind operators that no inference knows, as the runtime finds them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.data.feeds import Array, Feed, TensorSpec
from obs_onnx.data.rows import random_feed
from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import ObsOnnxError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import input_names, real_inputs
from obs_onnx.passes.graph.usage import is_used
from obs_onnx.passes.shapes.concrete import concretize
from obs_onnx.passes.shapes.contrib import ALIASES, SHAPES
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.passes.shapes.schemas import schema_of
from obs_onnx.runtimes.base import Runtime, Session
from obs_onnx.runtimes.sessions.partial_run import open_part, run_feed

__all__ = ["declare_shapes"]

_SCALES = (16, 2, 1)  # of free sizes, of which some models take small ones only
_BATCHES = ((2, 3), (1, 1))  # sizes of free first axes in the two runs that are compared

Dims = tuple[int | str | None, ...]


@dataclass(frozen=True)
class _Observed:
    """One run: numbers of the free sizes of the inputs, and shapes of values, by name."""

    sizes: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]


def declare_shapes(
    runtime: Callable[[], Runtime],
    model: ir.Model,
    data: Callable[[Sequence[TensorSpec]], Feed] | None = None,
) -> ir.Model:
    """``model``, or a copy that declares the shapes of values that neither ONNX nor the tables can infer.

    A size that is declared under a name that no input has counts as unknown.

    What the runtime infers by itself counts first. Then the values are computed twice, with other free sizes:
    what stays is fixed, what is as long as one of the free sizes both times is that one, and the rest stays
    unknown. Without an operator that nothing is known about, nothing is run. Where the model does not run, a
    size of such an operator is the one that bears its name where shapes can be inferred.

    Args:
        runtime: opens what the model runs on, if that is needed.
        model: not changed.
        data: what gives a feed for the inputs, where the model does not run on random numbers.
    """
    missing = _missing(model)
    if not missing:
        return model
    copy = model.clone()
    _name_free_sizes(copy)
    try:
        session = open_part(runtime(), extract(copy, input_names(copy), missing))
    except ObsOnnxError:
        return copy if _use_names_of_inputs(copy, missing) else model
    types = {
        spec.name: ir.DataType.from_numpy(spec.dtype) for spec in session.outputs if spec.dtype != object
    }
    inferred = {spec.name: spec.shape for spec in session.outputs}
    runs = next(_runs(session, data), None)
    values = ir.convenience.create_value_mapping(copy.graph, include_subgraphs=False)
    for name in missing:
        dims = _joined(inferred.get(name), name, runs, _symbols(copy))
        if dims is not None and name in types:
            values[name].shape, values[name].type = ir.Shape(dims), ir.TensorType(types[name])
    return copy


def _missing(model: ir.Model) -> list[str]:
    """Values of the main graph whose shapes nothing says, in order."""
    form = plain(model)
    InferShapes().call(form)
    suspicious = any(
        _is_foreign(node) or any(node_facts.dims(y) is None for y in node.outputs if is_used(y))
        for node in form.graph
    )
    if not suspicious:
        return []
    found = concretize(form)
    own = {str(y.name) for node in model.graph for y in node.outputs if _is_tensor(y)}
    lost = [y for node in form.graph if node in found.unknown for y in node.outputs if is_used(y)]
    lost = [y for y in lost if y not in found.shapes]
    symbols = _symbols(form)
    said = [y for node in form.graph if _is_foreign(node) for y in node.outputs if _other_names(y, symbols)]
    names = {str(y.name) for y in (*lost, *said)} & own
    return [name for name in (str(y.name) for node in form.graph for y in node.outputs) if name in names]


def _other_names(value: ir.Value, symbols: set[str]) -> bool:
    """Whether a size of ``value`` is neither a number nor one that an input has."""
    return is_used(value) and any(
        not isinstance(dim, int) and dim.value not in symbols for dim in value.shape or ()
    )


def _use_names_of_inputs(model: ir.Model, names: Sequence[str]) -> bool:
    """Say sizes of values ``names`` as the inputs do, by what other values say; whether any could be."""
    values = ir.convenience.create_value_mapping(model.graph, include_subgraphs=False)
    bare = model.clone()
    for node in bare.graph:
        for y in node.outputs:
            y.shape = y.shape if y.is_graph_output() else None
    InferShapes().call(bare)
    symbols, alike = _symbols(model), defaultdict[str, set[int | str]](set)
    for node in bare.graph:
        for y in node.outputs:
            declared = values[str(y.name)].shape if y.name else None
            if declared is None or y.shape is None or len(declared) != len(y.shape):
                continue
            for there, here in zip(declared, _dims(y.shape), strict=True):
                known = isinstance(here, int) or here in symbols
                if known and here is not None and not isinstance(there, int) and there.value not in symbols:
                    alike[str(there.value)].add(here)
    changed = False
    for shape in (values[name].shape for name in names):
        for axis, dim in enumerate(_dims(shape) if shape is not None else ()):
            if len(found := alike.get(str(dim), set())) == 1 and shape is not None:
                shape[axis], changed = next(iter(found)), True
    return changed


def _dims(shape: ir.Shape) -> Dims:
    return tuple(dim if isinstance(dim, int) else dim.value for dim in shape)


def _is_foreign(node: ir.Node) -> bool:
    name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    known = name in SHAPES or name in ALIASES
    return not known and schema_of(node.domain, node.op_type, node_facts.version(node) or 1) is None


def _is_tensor(value: ir.Value) -> bool:
    return bool(value.name) and (value.type is None or isinstance(value.type, ir.TensorType))


def _name_free_sizes(model: ir.Model) -> None:
    """Free sizes of inputs without a name get one each, as shapes take them from their places."""
    for value in real_inputs(model):
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    dim if isinstance(dim, int) else dim.value or f"{value.name}.{axis}"
                    for axis, dim in enumerate(value.shape)
                ]
            )


def _symbols(model: ir.Model) -> set[str]:
    shapes = [value.shape for value in real_inputs(model) if value.shape is not None]
    return {str(dim.value) for shape in shapes for dim in shape if not isinstance(dim, int)}


def _runs(
    session: Session, data: Callable[[Sequence[TensorSpec]], Feed] | None
) -> Iterator[tuple[_Observed, _Observed]]:
    """Pairs of runs with other free sizes: on random numbers, then on data."""
    specs = session.inputs
    first = {str(spec.shape[0]) for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    free = sorted({dim for spec in specs for dim in spec.shape or () if isinstance(dim, str)} - first)
    for scale in _SCALES:
        for one, other in _BATCHES:
            a = {**dict.fromkeys(first, one), **{s: scale * (4 + 2 * k) for k, s in enumerate(free)}}
            b = {**dict.fromkeys(first, other), **{s: scale * (6 + 4 * k) for k, s in enumerate(free)}}
            try:
                feeds = [random_feed(specs, sizes=sizes) for sizes in (a, b)]
                yield _observed(session, feeds[0], a), _observed(session, feeds[1], b)
            except ObsOnnxError:
                continue
    if data is not None:
        feed = data(specs)
        less = {spec.name: _without_last(feed[spec.name], spec) for spec in specs}
        try:
            yield _observed(session, feed, _sizes(specs, feed)), _observed(session, less, _sizes(specs, less))
        except ObsOnnxError:
            return


def _observed(session: Session, feed: Feed, sizes: Mapping[str, int]) -> _Observed:
    return _Observed(sizes, {name: array.shape for name, array in run_feed(session, feed).items()})


def _sizes(specs: Sequence[TensorSpec], feed: Feed) -> dict[str, int]:
    """Numbers of the free sizes in ``feed``."""
    return {
        dim: feed[spec.name].shape[axis]
        for spec in specs
        for axis, dim in enumerate(spec.shape or ())
        if isinstance(dim, str)
    }


def _without_last(array: Array, spec: TensorSpec) -> Array:
    """``array`` without the last of the elements along each free axis that has several."""
    index = [
        slice(0, n - 1) if isinstance(dim, str) and n > 1 else slice(None)
        for dim, n in zip(spec.shape or (), array.shape, strict=False)
    ]
    return array[tuple(index)]


def _joined(
    inferred: Dims | None, name: str, runs: tuple[_Observed, _Observed] | None, symbols: set[str]
) -> Dims | None:
    """The shape of a value by what the runtime infers and by what two runs gave; None if both say nothing."""
    known = (
        None if inferred is None else [d if isinstance(d, int) or d in symbols else None for d in inferred]
    )
    if runs is None:
        return None if known is None else tuple(known)
    a, b = (run.shapes[name] for run in runs)
    if len(a) != len(b):
        return None
    seen = [_size(runs, axis, pair) for axis, pair in enumerate(zip(a, b, strict=True))]
    if known is None or len(known) != len(seen):
        return tuple(seen)
    return tuple(there if here is None else here for here, there in zip(known, seen, strict=True))


def _size(runs: tuple[_Observed, _Observed], axis: int, pair: tuple[int, int]) -> int | str | None:
    alike = [name for name, size in runs[0].sizes.items() if (size, runs[1].sizes[name]) == pair]
    if pair[0] == pair[1]:  # fixed, unless it may be a free size that is the same in both runs
        return pair[0] if not alike else alike[0] if axis == 0 and len(alike) == 1 else None
    return alike[0] if len(alike) == 1 else None
