"""Where the quality of a model is measured: in front of what it decides, and of what cannot be run.

An output that holds chosen rows, an index or a class cannot be compared number by number. What it is decided
from can: boxes and scores in front of a NonMaxSuppression, scores in front of an ArgMax. So a model that ends
in such a decision is cut in front of it. Decisions in the middle, with weights behind them, stay: nothing in
front of them says what these weights do.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from obs_onnx.passes.canonical.canonicalize import plain
from obs_onnx.passes.errors import ModelError, OptionError, named
from obs_onnx.passes.graph import node_facts
from obs_onnx.passes.graph.logits import class_axes
from obs_onnx.passes.graph.scopes import bodies, reads
from obs_onnx.passes.interface.caches import Caches
from obs_onnx.passes.interface.cut import Cut, cut, has_weights, learns
from obs_onnx.passes.ops import key, lookup
from obs_onnx.passes.printable import first_of
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.runtimes.base import Runtime
from obs_onnx.runtimes.foreign import foreign_operators
from obs_onnx.verification.decisions import decides, draws

__all__ = ["Front", "find_front", "undecided"]

_NAMED = 3  # things that a note lists


@dataclass(frozen=True)
class Front:
    """What of a model is pruned and measured.

    Attributes:
        original: the model as it came in.
        cut: where it is cut; None where all of it is pruned and measured.
        decided: the nodes with which the rest begins, which decide.
        foreign: nodes in the rest that the runtime cannot run.
        caches: of the model as it came in that may change; :attr:`original` lacks the outputs that give them.
        choosing: nodes in the front that choose rows by what was learnt, with weights behind them.
    """

    original: ir.Model
    cut: Cut | None = None
    decided: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    choosing: tuple[str, ...] = ()
    caches: Caches | None = None

    @property
    def model(self) -> ir.Model:
        """What is pruned and measured."""
        return self.original if self.cut is None else self.cut.front

    @property
    def class_axes(self) -> Mapping[str, int]:
        """Axes of outputs of :attr:`model` which what lies behind takes for those of classes."""
        if self.cut is None:
            return {}
        return class_axes(self.cut.whole, {str(value.name) for value in self.cut.front.graph.outputs})

    @property
    def runs(self) -> bool:
        """Whether all of the model can be run."""
        return not self.foreign

    def complete(self, front: ir.Model) -> ir.Model:
        """A form of :attr:`model` with what lies behind it."""
        return front if self.cut is None else self.cut.restored(front)

    def closed(self, whole: ir.Model) -> ir.Model:
        """The form in which a complete model is written: with its caches, of the sizes that are left."""
        return whole if self.caches is None else self.caches.closed(whole)

    def part(self, whole: ir.Model, of: str = "the model") -> ir.Model:
        """What of another form of the model is measured; ``of`` is what messages call it.

        Raises:
            ModelError: it has not all of the places.
        """
        if self.caches is not None:
            whole = self.caches.inner(whole)
        if self.cut is None:
            return whole
        if missing := self._missing(whole):
            raise ModelError(
                f"{of} has no value {missing[0]!r}, at which the other model is measured: "
                f"name a place that both have with {named('cut')}"
            )
        return self.cut.front_of(whole)

    def is_in(self, model: ir.Model) -> bool:
        """Whether another model has all of the places."""
        return not self._missing(model)

    def _missing(self, model: ir.Model) -> list[str]:
        there = {str(value.name) for node in model.graph for value in node.outputs}
        there |= {*model.graph.initializers, *(str(value.name) for value in model.graph.inputs)}
        given = () if self.cut is None else self.cut.front.graph.outputs
        return [name for value in given if (name := str(value.name)) not in there]

    def timed(self, front: ir.Model) -> ir.Model:
        """As much of :meth:`complete` as can be run."""
        return self.complete(front) if self.runs else front

    @property
    def notes(self) -> tuple[str, ...]:
        """Where quality is measured and what lies behind, for people."""
        inside: tuple[str, ...] = ()
        if self.choosing:
            verb = "chooses" if len(self.choosing) == 1 else "choose"
            inside = (
                f"{first_of(self.choosing, _NAMED)} {verb} rows in front of further weights: where a smaller "
                "model chooses others, or in another order, all of their error counts; a place in front of "
                f"it can be measured with {named('cut')}, what the rows are worth with {named('metric')}",
            )
        if self.cut is None:
            return inside
        measured = [str(value.name) for value in self.cut.front.graph.outputs]
        verb = "decides" if len(self.decided) == 1 else "decide"
        by = f", on which {first_of(self.decided, _NAMED)} {verb}," if self.decided else ""
        place = (
            f"quality is measured at {', '.join(measured)}{by} "
            f"and not at {first_of(self.cut.outputs, _NAMED)} behind; "
            "multiply-accumulates and memory are counted up to there"
        )
        return (place, *inside, *self.notes_behind)

    @property
    def notes_behind(self) -> tuple[str, ...]:
        """What lies behind and is not looked at, for people."""
        notes = []
        if self.foreign:
            notes.append(
                f"not run, not timed and put back as it was: {first_of(self.foreign, _NAMED)}, "
                "which the runtime cannot run"
            )
        if self.cut is not None and self.cut.layers:
            notes.append(
                f"left as they are, behind: the weights of nodes {first_of(self.cut.layers, _NAMED)}"
            )
        return tuple(notes)


def find_front(runtime: Runtime, model: ir.Model, at: Sequence[str] = ()) -> Front:
    """Find where a model is measured, and cut it there.

    Args:
        runtime: where it is measured.
        model: as it came in; it is not changed.
        at: names of values where it is to be measured instead of in front of the decisions that follow from
            them; for an output of the model, at this output.

    Raises:
        OptionError: no value has a name in ``at``, or it lies behind another one or behind what cannot be
        run. ModelError: nothing in front can be pruned.
    """
    whole = plain(model)
    InferShapes().call(whole)
    _read_outputs(whole)
    foreign = foreign_operators(runtime, whole)
    strange = [node for node in whole.graph if any(key(one) in foreign for one in _with_bodies(node))]
    asked = _values(whole, at)
    first = [
        *strange,
        *(use.node for value in asked for use in value.uses() if use.node.graph is whole.graph),
    ]
    settled = _behind(whole, first) | set(asked)
    if hidden := [value for value in asked if value in _behind(whole, strange)]:
        raise OptionError(
            f"{named('cut')} {hidden[0].name}: it lies behind {_text(strange[0])}, "
            "which the runtime cannot run"
        )
    decided = list(_last_decisions(whole, settled, asked))
    if not first and not decided:
        return Front(model, choosing=tuple(map(_text, _inner_choices(whole))))
    found = cut(whole, [*first, *decided], at)
    given = {str(value.name) for value in found.front.graph.outputs}
    if late := [name for name in at if name not in given]:
        raise OptionError(f"{named('cut')} {late[0]}: it lies behind another place that was named")
    beginning = _earliest(whole, decided)
    inside = _inner_choices(found.front)
    deciding, strangers, choosing = (tuple(map(_text, nodes)) for nodes in (beginning, strange, inside))
    return Front(model, found, deciding, strangers, choosing)


def undecided(runtime: Runtime, model: ir.Model) -> ir.Model:
    """A model up to where its first output is decided; as it is, where that is not decided.

    Args:
        runtime: where it runs.
        model: as it came in; it is not changed.

    Raises:
        ModelError: nothing in front of the decision is learnt.
    """
    front = find_front(runtime, model)
    given = {str(value.name) for value in front.model.graph.outputs}
    return model if str(model.graph.outputs[0].name) in given else front.model


def _read_outputs(model: ir.Model) -> None:
    """Let nodes read an output itself in place of the value that it repeats: then it tells all they need."""
    for node in list(model.graph):
        output = node.outputs[0] if node.op_type == "Identity" and node.domain == "" else None
        source = node_facts.input_of(node, 0)
        if output is None or not output.is_graph_output() or source is None or source.producer() is None:
            continue
        for use in list(source.uses()):
            if use.node is not node and use.node.graph is model.graph:
                use.node.replace_input_with(use.idx, output)
    model.graph.sort()


def _values(model: ir.Model, names: Iterable[str]) -> list[ir.Value]:
    made = {str(value.name): value for node in model.graph for value in node.outputs}
    for name in names:
        if name not in made:
            near = difflib.get_close_matches(name, made, 1)
            hint = f"; is it {near[0]!r}?" if near else ""
            raise OptionError(
                f"{named('cut')} {name!r}: no node of the model gives a value of this name{hint}"
            )
    return [made[name] for name in names]


def _behind(model: ir.Model, nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """All values that follow from the results of ``nodes``, and these."""
    reached = {value for node in nodes for value in node.outputs}
    for node in model.graph:
        if any(value in reached for value in reads(node)):
            reached.update(node.outputs)
    return reached


def _last_decisions(
    model: ir.Model, settled: Collection[ir.Value], asked: Collection[ir.Value]
) -> Iterator[ir.Node]:
    """Nodes that decide on what was learnt, without weights behind them, and of which outputs are chosen.

    An output is chosen where it is not of a floating-point type, or where a node that chooses elements is on
    the way to it. Outputs in ``settled`` do not count, nor do decisions in front of what is ``asked``.
    """
    learnt = learns(model)[0]
    reaching = {value for value in model.graph.outputs if value not in settled}
    chosen = {value for value in reaching if not _is_float(value)}
    leading, weighted = set(asked), set[ir.Value]()
    for node in reversed(model.graph):
        reaches, leads, weighs = (
            any(y in values for y in node.outputs) for values in (reaching, leading, weighted)
        )
        follows = any(value in chosen for value in node.outputs) or (reaches and _chooses(node))
        read = [] if lookup(node).shape_only else reads(node)
        if follows and not (weighs or leads) and _decides(node) and any(value in learnt for value in read):
            yield node
        for flagged, values in (
            (reaches, reaching),
            (leads, leading),
            (follows, chosen),
            (weighs or has_weights(node), weighted),
        ):
            values.update(read if flagged else ())


def _inner_choices(model: ir.Model) -> list[ir.Node]:
    """Nodes that choose rows by what was learnt, of which a layer with weights and then an output follows."""
    learnt, found = learns(model)[0], []
    reaching, weighted = set(model.graph.outputs), set[ir.Value]()
    for node in reversed(model.graph):
        reaches, weighs = (any(y in values for y in node.outputs) for values in (reaching, weighted))
        read = [] if lookup(node).shape_only else reads(node)
        if weighs and lookup(node).chooses and any(value in learnt for value in read):
            found.append(node)
        reaching.update(read if reaches else ())
        weighted.update(read if weighs or (reaches and has_weights(node)) else ())
    return found[::-1]


def _earliest(model: ir.Model, nodes: Collection[ir.Node]) -> list[ir.Node]:
    """Those of ``nodes`` that follow from no other one."""
    reached = {value for node in nodes for value in node.outputs}
    for node in model.graph:
        if any(value in reached for value in reads(node)):
            reached.update(node.outputs)
    return [node for node in model.graph if node in nodes and not any(v in reached for v in reads(node))]


def _decides(node: ir.Node) -> bool:
    return decides(node) or not all(map(_is_tensor, node.outputs)) or (draws(node) and _chooses(node))


def _chooses(node: ir.Node) -> bool:
    """Whether the results of a node are elements that it chose, or no tensors.

    A body that decides on numbers goes another way with others.
    """
    if lookup(node).chooses or not all(map(_is_tensor, node.outputs)):
        return True
    inner = [one for body in bodies(node) for one in body.all_nodes()]
    return any(
        lookup(one).chooses or (lookup(one).decides and any(map(_is_float, node_facts.data_inputs(one))))
        for one in inner
    )


def _with_bodies(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for body in bodies(node):
        yield from body.all_nodes()


def _is_float(value: ir.Value) -> bool:
    kind = node_facts.dtype(value)
    return _is_tensor(value) and (kind is None or kind.is_floating_point())


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)


def _text(node: ir.Node) -> str:
    return f"node {node.name} ({key(node)})"
