"""A model without channels gives what the dense model gives with them silenced.

Behind a decision (the largest score, what lies over a threshold) rounding may turn outputs into others, and
random numbers turn them anyway. So where outputs differ, decisions and random numbers are taken from the
silenced model and fed to both. Then everything is compared: outputs, what the decisions rest on, and what the
same decision makes of equal numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.canonical.plainer.written_form import in_integers
from obs_onnx.passes.channels.coupling import Coupling, Keep
from obs_onnx.passes.channels.keep_file import kept_caches
from obs_onnx.passes.channels.silence import silence
from obs_onnx.passes.errors import VerificationError
from obs_onnx.passes.interface.caches import Caches
from obs_onnx.passes.interface.caches import Kept as CacheIndices
from obs_onnx.passes.ops import lookup
from obs_onnx.results.pruning import Agreement
from obs_onnx.runtimes.base import Runtime, Session
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.runtimes.sessions.partial_run import Values, open_whole, run_feed
from obs_onnx.verification.decisions import (
    Forms,
    behind,
    decided_outputs,
    deciding_nodes,
    drawn_outputs,
    draws,
)
from obs_onnx.verification.distance import norm, refusal, relative, tolerance_of
from obs_onnx.verification.fed_decisions import NOISE, Compared, Kept, compare_fed

__all__ = ["check_removal"]

_FROM_RUN_TO_RUN = "differs from run to run"
_EMPTY = "has no elements for the data"
_AWAY = "is a cache that is given behind the place where quality is measured"


def check_removal(
    runtime: Runtime,
    dense: Coupling,
    keep: Keep,
    small: ir.Model,
    feed: Values,
    original: ir.Model | None = None,
    caches: Caches | None = None,
) -> Agreement:
    """Compare a model without channels to the one of full size in which they have no effect.

    Models that hold integers are compared operator by operator where they differ otherwise: onnxruntime fuses
    integers, their scales and a product into one operator, which rounds what comes in by blocks of inputs.

    Args:
        runtime: where both run.
        dense: of the prepared model with the weights of ``small`` in their places.
        keep: channels that ``small`` still has.
        small: without the others.
        feed: what both get.
        original: the dense model with its own weights, whose values are the scale of all differences; by
            default that of ``dense``.
        caches: of the model as it came in that may change, which all three lack as outputs. What they give
            for the next step is compared as well: heads that stay.

    Raises:
        VerificationError: an output differs by more than is allowed, or what a decision rests on does.
    """
    forms = Forms(original or dense.model, silence(dense.model, keep, dense), small)
    pasts = {} if caches is None else {one.present: one.past for one in caches.pairs}
    if caches is not None:
        _check_inputs(kept_caches(dense, keep), caches.kept(small))
        forms = Forms(*map(caches.shown, forms))
    forms = Forms(*map(in_integers, forms))
    cut = Kept(dense, keep, feed, pasts)
    try:
        return _agreement(runtime, forms, cut, feed, pasts)
    except VerificationError:
        if not isinstance(runtime, OrtRuntime) or not any(lookup(node).quantizes for node in small.graph):
            raise
        return replace(_agreement(runtime.unfused(), forms, cut, feed, pasts), unfused=True)


def _agreement(
    runtime: Runtime, forms: Forms, cut: Kept, feed: Values, pasts: Mapping[str, str]
) -> Agreement:
    scales = {name: norm(y) for name, y in _run(open_whole(runtime, forms.dense), feed, cut).items()}
    reference = open_whole(runtime, forms.silenced)
    expected, found = _run(reference, feed, cut), run_feed(open_whole(runtime, forms.small), feed)
    tolerance = max(map(tolerance_of, expected.values()))
    off = {name: relative(found[name], y, scales[name]) for name, y in expected.items()}
    nodes = deciding_nodes(forms.silenced)
    random = tuple(str(node.name) for node in nodes if draws(node))
    wrong = [name for name, difference in off.items() if not difference <= tolerance]
    away = {name: _AWAY for name in pasts if name not in expected}
    if not wrong:
        return _compared(Agreement(tolerance, off, (), away, random), forms.silenced, expected)
    free = behind(forms.silenced, nodes)
    left_out = {name: _FROM_RUN_TO_RUN for name in wrong if name not in free}
    again = _run(reference, feed, cut) if left_out else {}
    for name in left_out:
        if relative(again[name], expected[name], scales[name]) <= NOISE * tolerance:
            raise refusal(f"output {name}", found[name], expected[name], off[name])
    fed = Compared()
    if decided := [name for name in wrong if name in free]:
        fed = compare_fed(runtime, forms, cut, feed, decided, tolerance)
    left_out |= fed.left_out
    sized = decided_outputs(forms.silenced)
    for name in left_out:
        if name not in sized and found[name].shape != expected[name].shape:
            raise refusal(f"output {name}", found[name], expected[name], off[name])
    same = {name: difference for name, difference in off.items() if name not in wrong}
    differences = {**same, **fed.differences}
    agreement = Agreement(tolerance, differences, tuple(fed.differences), left_out | away, random)
    return _compared(agreement, forms.silenced, expected)


def _run(session: Session, feed: Values, cut: Kept) -> dict[str, NDArray[Any]]:
    """Outputs of a model of full size; of caches what stays."""
    return {name: cut.cache(name, y) for name, y in run_feed(session, feed).items()}


def _check_inputs(stay: Mapping[str, Mapping[str, Sequence[int]]], read: CacheIndices) -> None:
    """Refuse a model that reads other elements of a cache than those that stay."""
    there = {name: {str(axis): list(index) for axis, index in axes.items()} for name, axes in read.items()}
    for name in sorted({*stay, *there}):
        if stay.get(name) != there.get(name):
            raise VerificationError(
                f"the smaller model reads other elements of the cache {name} than those that stay"
            )


def _compared(found: Agreement, model: ir.Model, outputs: Values) -> Agreement:
    """The same, where outputs without elements, or of nothing but drawn numbers, compare nothing."""
    void = {name: _EMPTY for name, y in outputs.items() if not y.size} | drawn_outputs(model)
    void = {name: reason for name, reason in void.items() if name in found.differences}
    return replace(
        found,
        differences={name: off for name, off in found.differences.items() if name not in void},
        fed=tuple(name for name in found.fed if name not in void),
        left_out={**found.left_out, **void},
    )
