"""Which initializers hold which parameters: by what they hold, and where that is not enough by order or
name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from obs_onnx.passes.errors import ModelError
from obs_onnx.torch.calls import Calls
from obs_onnx.torch.forms import BIASES, Form
from obs_onnx.torch.graphs import Constant

__all__ = ["Match", "match"]

_CLOSE = 1e-5  # of the largest number: batch normalization is folded in float32


@dataclass(frozen=True)
class Match:
    """An initializer, and the parameter that it holds."""

    constant: Constant
    form: Form


def match(constants: Sequence[Constant], forms: Sequence[Form], calls: Calls) -> list[Match]:
    """All parameters that initializers hold; others are left alone.

    Weights of layers come first: what layers add, and what was folded into them, goes with them and is not
    looked for by itself.

    Where several parameters hold the same numbers, as after ``copy.deepcopy``, the calls of their modules are
    in the order of the nodes that use them, if there are as many; otherwise the name of the initializer
    counts.

    Raises:
        ModelError: neither tells which one an initializer is that was changed.
    """
    weights = [one for one in constants if one.added_to is None and (one.is_matrix or one.bias is not None)]
    layers = _matched(weights, forms, calls)
    known = {one.constant.name for one in layers if one.form.knows_bias and one.constant.bias is not None}
    folded = {one.form.norm for one in layers if one.form.norm is not None}
    biases = {(one.form.path, name) for one in layers if one.constant.name in known for name in BIASES}
    first = {one.name for one in weights}
    others = [one for one in constants if one.name not in first and one.added_to not in known]
    left = [one for one in forms if one.path not in folded and (one.path, one.name) not in biases]
    return [*layers, *_matched(others, left, calls)]


def _matched(constants: Sequence[Constant], forms: Sequence[Form], calls: Calls) -> list[Match]:
    """Which of the parameters some initializers hold."""
    by_size: dict[int, list[Form]] = {}
    for form in forms:
        by_size.setdefault(len(form.values), []).append(form)
    alike: dict[tuple[tuple[str, str], ...], list[tuple[Constant, list[Form]]]] = {}
    for constant in constants:
        fitting = _distinct([one for one in by_size.get(len(constant.dense), []) if _fits(constant, one)])
        if fitting:
            key = tuple(sorted({(one.path, one.name) for one in fitting}))
            alike.setdefault(key, []).append((constant, fitting))
    found = []
    for members in alike.values():
        found += _assigned(members, calls)
    return found


def _fits(constant: Constant, form: Form) -> bool:
    most = np.abs(form.values).max(initial=0.0)
    return bool(np.abs(constant.dense - form.values).max(initial=0.0) <= _CLOSE * most)


def _distinct(forms: Sequence[Form]) -> list[Form]:
    """One form for each parameter and place in it; the plain one, where several hold the same."""
    found: dict[tuple[str, str, int], Form] = {}
    for form in sorted(forms, key=lambda one: one.norm is None, reverse=True):
        found.setdefault((form.path, form.name, int(form.places.min(initial=0))), form)
    return list(found.values())


def _assigned(members: Sequence[tuple[Constant, list[Form]]], calls: Calls) -> list[Match]:
    """Initializers that may hold the same parameters, with what each of them does hold."""
    candidates = members[0][1]
    if len(candidates) == 1:
        return [Match(constant, forms[0]) for constant, forms in members]
    uses = sorted((place, number) for number, (one, _) in enumerate(members) for place in one.users)
    called = sorted(
        (place, number) for number, form in enumerate(candidates) for place in calls.of(form.path)
    )
    if len(uses) == len(called):
        pairs = {(use[1], call[1]) for use, call in zip(uses, called, strict=True)}
        return [Match(members[one][0], members[one][1][form]) for one, form in sorted(pairs)]
    return [each for constant, forms in members for each in _named(constant, forms)]


def _named(constant: Constant, forms: Sequence[Form]) -> list[Match]:
    """By the name of the parameter, which exporters keep where they do not fold anything into it."""
    names: Mapping[str, Form] = {f"{one.path}.{one.name}".lstrip("."): one for one in forms}
    for name in (constant.name, constant.family):
        if name in names:
            return [Match(constant, names[name])]
    if not constant.touched:
        return []
    raise ModelError(
        f"{constant.name} may be any of {', '.join(names)}, which hold the same numbers: "
        "train the module before it is pruned, or export it with dynamo=True"
    )
