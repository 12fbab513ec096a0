"""Functions that take the fields of a dataclass of options as typed keywords."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, Protocol, TypeVar

from obs_onnx.data.feeds import Repeated
from obs_onnx.option import described, former_names, options_of
from obs_onnx.passes.errors import OptionError

__all__ = ["Verb", "takes"]

_WIDTH, _INDENT = 100, 4 * " "

P = ParamSpec("P")
O = TypeVar("O")  # noqa: E741
R = TypeVar("R")
M = TypeVar("M")
M_in = TypeVar("M_in", contravariant=True)
R_out = TypeVar("R_out", covariant=True)


class Verb(Protocol[M_in, P, R_out]):
    """A function of a model whose further arguments are those of a dataclass of options."""

    def __call__(self, model: M_in, *args: P.args, **kwargs: P.kwargs) -> R_out:
        """Make the options, and run."""


def takes(make: Callable[P, O]) -> Callable[[Callable[[M, O], R]], Verb[M, P, R]]:
    """Give a function ``f(model, options)`` the fields of its options as arguments.

    Signature and documentation come from the fields: a line ``options: ...`` of the docstring gives way to
    one for each.
    """

    assert isinstance(make, type)
    former = former_names(make)

    def decorate(body: Callable[[M, O], R]) -> Verb[M, P, R]:
        own, given = inspect.signature(body), inspect.signature(make).parameters.values()
        first = next(iter(own.parameters.values()))

        @functools.wraps(body)
        def verb(*args: Any, **kwargs: Any) -> R:
            if first.name in kwargs and not args:
                args = (kwargs.pop(first.name),)
            if not args:
                raise TypeError(f"{body.__name__}() needs an argument {first.name!r}")
            _rename(kwargs, former)
            model, *others = args
            return body(model, _repeated(make(*others, **kwargs)))

        verb.__dict__["__signature__"] = own.replace(parameters=[first, *given])
        verb.__doc__ = _documented(body.__doc__ or "", make)
        return verb

    return decorate


def _rename(given: dict[str, object], former: Mapping[str, str]) -> None:
    """Put what has the name of an earlier release under the one of today, with a note."""
    for old in former.keys() & given.keys():
        new = former[old]
        if new in given:
            raise OptionError(f"{old} is the former name of {new}: give {new} alone")
        warnings.warn(f"{old} is now called {new}", DeprecationWarning, stacklevel=3)
        given[new] = given.pop(old)


def _repeated(options: O) -> O:
    """Options whose data can be read again and again: an iterator gives what it has only once."""
    given = {one.name: getattr(options, one.name) for one in options_of(type(options)) if one.form == "data"}
    once = {name: Repeated(data) for name, data in given.items() if isinstance(data, Iterator)}
    return dataclasses.replace(options, **once) if once else options  # type: ignore[type-var]


def _documented(text: str, group: type) -> str:
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip().startswith("options: "):
            indent = line[: len(line) - len(line.lstrip())]
            fill = functools.partial(
                textwrap.fill, width=_WIDTH, initial_indent=indent, subsequent_indent=indent + _INDENT
            )
            lines += [fill(f"{one.name}: {described(one)}") for one in options_of(group)]
        else:
            lines.append(line)
    return "\n".join(lines)
