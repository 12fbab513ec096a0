"""Functions that take the fields of a dataclass of options as typed keywords."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from obs_onnx.option import described, options_of

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

    def decorate(body: Callable[[M, O], R]) -> Verb[M, P, R]:
        @functools.wraps(body)
        def verb(model: M, *args: P.args, **kwargs: P.kwargs) -> R:
            return body(model, make(*args, **kwargs))

        own, given = inspect.signature(body), inspect.signature(make).parameters.values()
        first = next(iter(own.parameters.values()))
        verb.__dict__["__signature__"] = own.replace(parameters=[first, *given])
        assert isinstance(make, type)
        verb.__doc__ = _documented(body.__doc__ or "", make)
        return verb

    return decorate


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
