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
_ROUNDING = 1e-6  # of it: nothing nearer says more


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
        if fitting := _fitting(constant, by_size.get(len(constant.dense), []), forms):
            key = tuple(sorted({(one.path, one.name) for one in fitting}))
            alike.setdefault(key, []).append((constant, fitting))
    found = []
    for members in alike.values():
        found += _assigned(members, calls)
    return found


def _fitting(constant: Constant, same_size: Sequence[Form], forms: Sequence[Form]) -> list[Form]:
    """Forms that hold the same numbers: in the same shape, but for axes of one element, repeated, or in any
    shape, the first of these where there are any."""
    if found := _nearest(constant, [one for one in same_size if one.shape == constant.shape]):
        return found
    close = _nearest(constant, same_size)
    if found := [one for one in close if _longer(one.shape) == _longer(constant.shape)]:
        return found
    if constant.touched:
        spread = [one for form in forms if (one := form.spread(constant.shape)) is not None]
        for some in ([one for one in spread if one.rank == len(constant.shape)], spread):
            if found := _nearest(constant, some):
                return found
    return close


def _longer(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n > 1)


def _nearest(constant: Constant, forms: Sequence[Form]) -> list[Form]:
    """Forms that hold the same numbers, one for each parameter and place in it.

    Those with batch normalization in them go before plain ones that are as near: of a normalization that
    nobody trained, factors are ones but for the small number that is added to the variance.
    """
    near = [
        (max(apart, _ROUNDING), one.norm is None, place)
        for place, one in enumerate(forms)
        if (apart := _distance(constant, one)) <= _CLOSE
    ]
    found: dict[tuple[str, str, int], int] = {}
    for _, _, place in sorted(near):
        one = forms[place]
        found.setdefault((one.path, one.name, int(one.places.min(initial=0))), place)
    return [forms[place] for place in sorted(found.values())]


def _distance(constant: Constant, form: Form) -> float:
    """Largest difference, relative to the largest number."""
    most = float(np.abs(form.values).max(initial=0.0))
    apart = float(np.abs(constant.dense - form.values).max(initial=0.0))
    return apart / most if most else np.inf if apart else 0.0


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
