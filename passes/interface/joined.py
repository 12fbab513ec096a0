"""Files that belong together as one model: an encoder, a decoder, and one that goes on from its caches.

What one file gives and another takes is a value inside of the one model, which may lose channels like any
other, and weights that several files hold alike are one. Afterwards each file is cut out again, with the
sizes that are left.

Values are followed by the names that exporters choose: an output goes to the input of its name, the states of
an encoder to ``encoder_hidden_states``, what is called ``present...`` to the ``past...`` of the same ending.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from obs_onnx.passes.errors import ModelError
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.extract import extract
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.graph.names import named
from obs_onnx.passes.ops import key

__all__ = ["PARTS", "join", "split"]

PARTS = "obs_onnx.parts"
"""Name of the property of a model that says, in JSON, of which files it was joined."""

_STATES = ("encoder_hidden_states", "last_hidden_state", "hidden_states", "encoder_outputs")
_FROM_ENCODER = "encoder_"  # how inputs of decoders begin that the encoder has or gives
_CACHE = re.compile(r"(?:past|present)(?:_key_values?)?[._]?")

Dims = Sequence[int | str | None]


@dataclass(frozen=True)
class _Port:
    """An input or output of a file.

    Attributes:
        name, dims: in the file.
        source: in the one model: an input, or the first output of the node that gives it.
        index: which output of that node it is.
    """

    name: str
    dims: Dims | None
    source: str
    index: int = 0


@dataclass(frozen=True)
class _Part:
    name: str
    inputs: tuple[_Port, ...]
    outputs: tuple[_Port, ...]


@dataclass
class _Joining:
    """The one model as far as it is.

    Attributes:
        inputs: of it, by name.
        given: the newest output of each name, as files call it.
        taken: outputs that a later file takes.
        weights: tensors by their contents, for those of the next file that are alike.
    """

    whole: ir.Model
    inputs: dict[str, ir.Value] = field(default_factory=dict)
    given: dict[str, ir.Value] = field(default_factory=dict)
    taken: set[ir.Value] = field(default_factory=set)
    weights: dict[bytes, ir.Value] = field(default_factory=dict)

    def source_of(self, name: str) -> ir.Value | None:
        """What an input of that name is, if it is there already."""
        wanted = [name]
        if _is_cache(name):
            wanted = [one for one in self.given if _is_cache(one) and _ending(one) == _ending(name)]
        elif name in _STATES:
            wanted = list(_STATES)
        if found := next((self.given[one] for one in wanted if one in self.given), None):
            self.taken.add(found)
            return found
        if not name.startswith(_FROM_ENCODER):
            return None
        return self.inputs.get(name) or self.inputs.get(name.removeprefix(_FROM_ENCODER))


def join(models: Mapping[str, ir.Model]) -> ir.Model:
    """One model of several, by their names, in the order in which they run.

    Its inputs are those that nothing before gives, its outputs those that nothing behind takes, without
    caches for the next step. Where several files have one of that name it is called ``FILE.name``.

    Args:
        models: without functions and Constant nodes, everything named. They are not changed.

    Raises:
        ModelError: less than two files, other opsets, or a file that has nothing to do with those before.
    """
    if len(models) < 2:
        raise ModelError("give two files at least, in the order in which they run")
    plains = {name: model.clone() for name, model in models.items()}
    opsets = {name: model.opset_imports.get("", 1) for name, model in plains.items()}
    if len(set(opsets.values())) > 1:
        told = ", ".join(f"{name}: {opset}" for name, opset in opsets.items())
        raise ModelError(f"the files have different opsets ({told}): export them with the same one")
    first = next(iter(plains.values()))
    version = max(4, *(model.ir_version for model in plains.values()))
    graph = ir.Graph([], [], nodes=[], name="joined", opset_imports=dict(first.opset_imports))
    joining = _Joining(ir.Model(graph, ir_version=version, producer_name=first.producer_name))
    again = Counter(str(v.name) for m in plains.values() for v in (*real_inputs(m), *m.graph.outputs))
    parts = [_add(joining, name, model, again) for name, model in plains.items()]
    graph.inputs.extend(joining.inputs.values())
    ends = {_giver(graph, port): port.name for part in parts for port in part.outputs}
    graph.outputs.extend(y for y, name in ends.items() if y not in joining.taken and not _is_cache(name))
    joining.whole.metadata_props[PARTS] = json.dumps([asdict(part) for part in parts])
    return joining.whole


def _add(joining: _Joining, name: str, model: ir.Model, again: Mapping[str, int]) -> _Part:
    """Put a file behind what is there."""
    whole, own = (
        joining.whole,
        {value: str(value.name) for value in (*real_inputs(model), *model.graph.outputs)},
    )
    dims = {value: _dims(value) for value in own}
    outputs = list(model.graph.outputs)
    ends = [_behind_identities(value) for value in outputs]
    model.graph.outputs.clear()
    sources = {value: joining.source_of(own[value]) for value in real_inputs(model)}
    for node in RecursiveGraphIterator(model.graph):
        node.name = f"{name}.{node.name}"
        for value in node.outputs:
            value.name = f"{name}.{value.name}" if value.name else value.name
    shared = _hold_weights(joining, name, model)
    if joining.given and not shared and not any(sources.values()):
        raise ModelError(f"{name} takes nothing that a file before it gives, and shares no weight with one")
    for value, source in sources.items():
        if source is None:
            free = _called(own[value], name, again)
            source = joining.inputs[free] = ir.Value(name=free, shape=value.shape, type=value.type)
        sources[value] = source
        value.replace_all_uses_with(source)
    nodes = list(model.graph)
    model.graph.remove(nodes)
    whole.graph.extend(nodes)
    for domain, version in model.opset_imports.items():
        whole.opset_imports.setdefault(domain, version)
    for value, end in zip(outputs, ends, strict=True):
        end.type, end.shape = end.type or value.type, end.shape or value.shape
        if end is not value:
            value.replace_all_uses_with(end)
            _remove_chain(whole, value, end)
        if end not in joining.given.values():
            end.name = _called(own[value], name, again)
        joining.given[own[value]] = end
    return _Part(
        name,
        tuple(_port(own[value], dims[value], source) for value, source in sources.items() if source),
        tuple(_port(own[value], dims[value], end) for value, end in zip(outputs, ends, strict=True)),
    )


def _called(port: str, file: str, again: Mapping[str, int]) -> str:
    return port if again[port] == 1 else f"{file}.{port}"


def _port(name: str, dims: Dims | None, value: ir.Value) -> _Port:
    node = value.producer()
    if node is None:
        return _Port(name, dims, str(value.name))
    return _Port(name, dims, str(node.outputs[0].name), value.index() or 0)


def _hold_weights(joining: _Joining, name: str, model: ir.Model) -> int:
    """Initializers of a file in the one model; how many of them are there already."""
    fresh, count = dict[bytes, ir.Value](), 0
    there = dict(joining.weights)
    for old, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        alike = _contents(tensor) if tensor.size > 1 and tensor.dtype.is_floating_point() else b""
        one = there.pop(alike, None) if alike else None
        count += one is not None
        if one is None:
            free = f"{name}.{old}"
            one = ir.Value(name=free, shape=value.shape, type=value.type, const_value=named(tensor, free))
            joining.whole.graph.register_initializer(one)
        if alike:
            fresh[alike] = one
        value.replace_all_uses_with(one)
        del model.graph.initializers[old]
    joining.weights.update(fresh)
    return count


def _contents(tensor: ir.TensorProtocol) -> bytes:
    told = f"{tensor.dtype} {tuple(tensor.shape.numpy())}".encode()
    return hashlib.sha256(told + tensor.tobytes()).digest()


def split(model: ir.Model) -> dict[str, ir.Model]:
    """The files that a model was joined of, by name, with the sizes that are left.

    Args:
        model: as :func:`join` has made it, or a smaller form of it. It is not changed.

    Raises:
        ModelError: it was not joined, or does not give any more what a file has to.
    """
    if PARTS not in model.metadata_props:
        raise ModelError("the model was not joined of several files")
    parts = [_part(one) for one in json.loads(model.metadata_props[PARTS])]
    return {part.name: _split(model.clone(), part) for part in parts}


def _split(whole: ir.Model, part: _Part) -> ir.Model:
    outputs = [_giver(whole.graph, port, part.name) for port in part.outputs]
    there = {str(value.name): value for value in whole.graph.inputs}
    inputs = [
        there[port.source] if port.source in there else _giver(whole.graph, port, part.name)
        for port in part.inputs
    ]
    names = [[str(value.name) for value in values] for values in (inputs, outputs)]
    try:
        piece = extract(whole, *names)
    except ValueError as error:
        raise ModelError(f"{part.name} cannot be cut out: it needs more than its inputs") from error
    piece.producer_name, piece.producer_version = whole.producer_name, whole.producer_version
    found = {str(value.name): value for value in (*piece.graph.inputs, *piece.graph.outputs)}
    taken = [
        found.get(name) or ir.Value(name=name, shape=v.shape, type=v.type)
        for name, v in zip(names[0], inputs, strict=True)
    ]
    piece.graph.inputs.clear()
    piece.graph.inputs.extend(taken)
    for port, value in zip((*part.inputs, *part.outputs), (*taken, *piece.graph.outputs), strict=True):
        value.shape = _left(port.dims, value.shape)
    for port, value in zip((*part.inputs, *part.outputs), (*taken, *piece.graph.outputs), strict=True):
        value.name = port.name
    return piece


def _left(dims: Dims | None, shape: ir.Shape | None) -> ir.Shape | None:
    """Sizes that are left of those of the file, whose free sizes keep their names."""
    if dims is None or shape is None or len(dims) != len(shape):
        return shape
    return ir.Shape([now if isinstance(old, int) else old for old, now in zip(dims, shape, strict=True)])


def _giver(graph: ir.Graph, port: _Port, of: str = "") -> ir.Value:
    """The value of the one model that a port is."""
    node = next((one for one in graph if one.outputs and one.outputs[0].name == port.source), None)
    if node is None:
        raise ModelError(f"nothing gives {port.name} of {of} any more: protect it")
    if len(node.outputs) <= port.index:
        node.resize_outputs(port.index + 1)
    value = node.outputs[port.index]
    value.name = value.name or f"{port.source}.{port.index}"
    return value


def _part(told: Mapping[str, object]) -> _Part:
    ports = {
        where: tuple(_Port(**one) for one in told[where])  # type: ignore[attr-defined]
        for where in ("inputs", "outputs")
    }
    return _Part(str(told["name"]), **ports)


def _behind_identities(value: ir.Value) -> ir.Value:
    """What an output is, without Identity nodes that only give it a name."""
    while (node := value.producer()) is not None and key(node) == "Identity":
        source = node_facts.input_of(node, 0)
        if source is None or source.producer() is None:
            break
        value = source
    return value


def _remove_chain(whole: ir.Model, value: ir.Value, end: ir.Value) -> None:
    """Take away the Identity nodes between ``end`` and ``value``, as far as nothing reads them."""
    while value is not end and not value.uses() and (node := value.producer()) is not None:
        (source,) = node.inputs
        assert source is not None
        whole.graph.remove(node, safe=True)
        value = source


def _dims(value: ir.Value) -> Dims | None:
    if value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def _is_cache(name: str) -> bool:
    return _CACHE.match(name) is not None


def _ending(name: str) -> str:
    return _CACHE.sub("", name, count=1)
