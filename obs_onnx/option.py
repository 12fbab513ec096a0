"""One list of options: a field of a frozen dataclass says all there is to know about an option.

    @dataclass(frozen=True, kw_only=True)
    class RuntimeOptions(Options, title="Runtime"):
        threads: int | None = option(None, help="Threads of one operator.", least=1, metavar="N")

From it come the keyword of the Python function and its documentation
(:mod:`obs_onnx.entrypoints.options.keywords`), the check of its value
(:func:`check`), the record of what was asked (:func:`asked`), the command-line option
(:mod:`obs_onnx.cli.options`) and its line in ``docs/options.md``. Groups are combined by inheritance.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from obs_onnx.passes.errors import OptionError, keyword, named, spelled

__all__ = [
    "Form",
    "Option",
    "Options",
    "about",
    "asked",
    "check",
    "described",
    "former_names",
    "option",
    "options_of",
    "output_file",
]

T = TypeVar("T")

Form = Literal[
    "",
    "size",
    "file",
    "new model",
    "new folder",
    "model",
    "data",
    "libraries",
    "runtime",
    "work folder",
    "cluster",
]


@dataclass(frozen=True)
class Option:
    """What is known about an option.

    Attributes:
        help: one sentence, which the command line shows.
        more: further sentences, for the documentation.
        otherwise: what its default None stands for.
        choices: all values there are, for example a registry of them; none where values are free.
        least, most: bounds of a number that belong to it.
        above, below: bounds that do not.
        metavar: what stands for a value in the help of the command line.
        mode: of pruning that it goes with; None for any, and where the group has no option ``mode``.
        flags: on the command line; none for an option of Python alone.
        form: of a value, where its type does not tell: a size in bytes; a file, a model or a folder that is
            written; a model, data, libraries of operators or the programs of a runtime that are read; a
            folder for what a stopped run goes on from; where workers are.
        common: place among those that are shown first; 0 for the others.
        recorded: kept in the record of what was asked.
        former: names it had in earlier releases, which keep working, with a note.
        name, type, default, required, title: of the field and of its group; :func:`options_of` fills them in.
    """

    help: str
    more: str = ""
    otherwise: str = ""
    choices: Collection[str] = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    metavar: str | None = None
    mode: str | None = None
    flags: tuple[str, ...] = ()
    form: Form = ""
    common: int = 0
    recorded: bool = True
    former: tuple[str, ...] = ()
    name: str = ""
    type: str = ""
    default: object = None
    required: bool = False
    title: str = ""

    @property
    def bounds(self) -> str:
        """What a number has to be, in words; empty where there is no bound."""
        words = (
            ("at least", self.least),
            ("more than", self.above),
            ("at most", self.most),
            ("less than", self.below),
        )
        return " and ".join(f"{word} {bound:g}" for word, bound in words if bound is not None)

    def allows(self, value: object) -> bool:
        """Whether ``value`` is one of the choices and within the bounds."""
        if self.choices:
            return value in self.choices
        if not _finite(value):
            return False
        return not isinstance(value, int | float) or (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def about(help: str, *, flags: str = "--*", **known: Any) -> dict[str, Option]:
    """The metadata of a field that is an option; see :class:`Option` for what may be ``known``.

    Args:
        help: one sentence.
        flags: on the command line, separated by blanks, where ``*`` stands for the name with dashes; none
            for an option of Python alone.
        known: other attributes.
    """
    return {"option": Option(help, flags=tuple(flags.split()), **known)}


def option(default: T, **described: Any) -> T:
    """A field of a dataclass that is an option, with its default and what :func:`about` takes."""
    made: T = field(default=default, metadata=about(**described))
    return made


def output_file(name: str) -> str | os.PathLike[str] | None:
    """The option of the file that is written; the command line calls it ``name`` unless one is given."""
    return option(
        None,
        help="File to write.",
        otherwise=f"none; on the command line {name}",
        metavar="OUT",
        form="new model",
        flags="-o --output",
        common=1,
    )


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of every group of options; values are checked when it is made.

    Attributes:
        title: of the group, over its options in help and documentation.

    Raises:
        OptionError: a value that its option does not allow.
    """

    title: ClassVar[str] = ""

    def __init_subclass__(cls, *, title: str = "") -> None:
        super().__init_subclass__()
        if title:
            cls.title = title

    def __post_init__(self) -> None:
        check(self)

    def results(self, model: Path | None) -> Mapping[str, Sequence[Path]]:
        """What is written by default or beside what is named, by option, for a model in that file."""
        return {}

    def part(self, group: type[T]) -> T:
        """The options of another group among these; its others have their defaults."""
        names = [one.name for one in options_of(group) if hasattr(self, one.name)]
        return group(**{name: getattr(self, name) for name in names})


def options_of(group: type) -> tuple[Option, ...]:
    """The options of a group and of those it inherits, in the order in which it names them."""
    fields = {one.name: one for one in dataclasses.fields(group) if "option" in one.metadata}
    found: dict[str, Option] = {}
    for home in (*group.__mro__[1:], group):
        for name in inspect.get_annotations(home):
            if name in fields and name not in found:
                found[name] = _filled(fields[name], home, "mode" in fields)
    return tuple(found.values())


def former_names(group: type) -> dict[str, str]:
    """The names that options of a group had in earlier releases, and those they have now."""
    return {old: one.name for one in options_of(group) for old in one.former}


def _filled(one: dataclasses.Field[Any], home: type, moded: bool) -> Option:
    known: Option = one.metadata["option"]
    return dataclasses.replace(
        known,
        name=one.name,
        mode=known.mode if moded else None,
        type=one.type if isinstance(one.type, str) else inspect.formatannotation(one.type),
        default=None if one.default is MISSING else one.default,
        required=one.default is MISSING,
        title=known.title or getattr(home, "title", ""),
        flags=tuple(flag.replace("*", one.name.replace("_", "-")) for flag in known.flags),
    )


def check(options: object) -> None:
    """Refuse values that their options do not allow.

    Raises:
        OptionError: the first of them.
    """
    for one in options_of(type(options)):
        value = getattr(options, one.name)
        if (value is None and one.default is None) or one.allows(value):
            continue
        if one.choices:
            known = " or ".join(one.choices) if len(one.choices) < 3 else f"one of {', '.join(one.choices)}"
            raise OptionError(f"{named(one.name)} {value!r} is unknown: use {known}")
        finite = one.bounds if _finite(value) or value != value else ""
        raise OptionError(f"{named(one.name)} {value}: use {finite or 'finite numbers'}")


def _finite(value: object) -> bool:
    """Whether all numbers in an option are."""
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    return not isinstance(value, float) or math.isfinite(value)


def asked(options: object) -> dict[str, object]:
    """The options that differ from their defaults, ready for JSON; data in memory is named by its type."""
    values = ((one, getattr(options, one.name)) for one in options_of(type(options)) if one.recorded)
    return {one.name: _plain(value) for one, value in values if not _same(value, one.default)}


def _same(value: object, default: object) -> bool:
    return value is default or (isinstance(value, bool | int | float | str | tuple) and value == default)


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    simple = bool | int | float | str
    if isinstance(value, Mapping) and all(isinstance(item, simple) for item in value.values()):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and all(isinstance(item, simple) for item in value):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


def described(one: Option, spell: Callable[[str, str], str] = keyword) -> str:
    """An option in sentences: what it does, its values, its default."""
    found = [one.help, one.more]
    if one.choices:
        found.append(f"One of {', '.join(one.choices)}.")
    elif one.bounds:
        found.append(f"{one.bounds[0].upper()}{one.bounds[1:]}.")
    if one.mode is not None:
        found.append(f"With {named('mode', one.mode)} only.")
    if one.otherwise:
        found.append(f"By default {one.otherwise}.")
    return spelled(" ".join(filter(None, found)), spell)
