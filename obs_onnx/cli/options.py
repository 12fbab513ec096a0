"""Command-line options, made from the fields of dataclasses (:mod:`obs_onnx.option`), in titled groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from obs_onnx.cli.errors import be_verbose, load, speller, tell
from obs_onnx.cli.saved.config import check_config, use_config
from obs_onnx.cli.values import KeyValue, Size, WrittenFile
from obs_onnx.option import Form, Option, options_of
from obs_onnx.passes.errors import spelled

__all__ = ["CONFIG", "JSON", "OUT", "QUIET", "SUMMARY", "Command", "TitledOption", "options_from"]

F = TypeVar("F", bound=Callable[..., Any])

COMMON, OUTPUT = "Common options", "Output"
_LAST = 99
_VERBS = {"eval": "evaluate"}  # commands that are called otherwise in Python
_METAVARS = {"int": "N", "float": "X"}
_FORMER = "obs_onnx.former"  # in what the contexts of a command line share: what was called by an old name


class TitledOption(click.Option):
    """An option that stands under a title in the help of its command; pairs come as one mapping.

    Attributes:
        title: of its group.
        common: place among those that are shown first; 0 for the others.
        form: of the value, see :class:`obs_onnx.option.Option`.
        former: names of earlier releases, which keep working with a note.
    """

    def __init__(
        self,
        *args: Any,
        title: str = OUTPUT,
        common: int = 0,
        form: Form = "",
        former: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.title, self.common, self.form, self.former = title, common, form, former

    @property
    def flag(self) -> str:
        """Its longest spelling, without dashes."""
        return max(self.opts, key=len).lstrip("-")

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """The value as Python takes it."""
        found = super().process_value(ctx, value)
        return (dict(found) or None) if isinstance(self.type, KeyValue) else found


class Command(click.Command):
    """A command whose help shows its options in titled groups, the common ones first; it can be verbose.

    An option is known by its name in Python, too, and by those of earlier releases, which are told. What
    stands in the place of OUT is the output.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(
            TitledOption(
                ["-v", "--verbose"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=be_verbose,
                help="Show warnings, what every stage took, and the traceback of an error.",
            )
        )

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Read the arguments, whichever names of their options they use."""
        own = [one for one in self.params if isinstance(one, TitledOption) and one.name]
        former = {old.replace("_", "-"): one.flag for one in own for old in one.former}
        known = {str(one.name).replace("_", "-"): one.flag for one in own} | {
            one.flag: one.flag for one in own
        }
        used: list[str] = []

        def today(name: str) -> str:
            if name in known or name not in former:
                return known.get(name, name)
            used.append(name)
            return former[name]

        made = super().make_context(info_name, args, parent, token_normalize_func=today, **extra)
        made.meta[_FORMER] = {old: former[old] for old in used}
        return made

    def invoke(self, ctx: click.Context) -> Any:
        """Run, once options that were called by former names are told, and OUT is the output."""
        load(_VERBS.get(str(self.name), str(self.name)))
        if not ctx.params.get("silent"):
            for old, new in ctx.meta.get(_FORMER, {}).items():
                tell(f"note: --{old} is now called --{new}")
        if (out := ctx.params.pop("out", None)) is not None:
            if ctx.get_parameter_source("output") is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"the output is given twice, as {out} and by --output: give one")
            ctx.params["output"] = out
        check_config(ctx)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each title."""
        options = [one for one in self.get_params(ctx) if isinstance(one, click.Option)]
        options.sort(key=lambda one: getattr(one, "common", 0) or _LAST)
        sections: dict[str, list[tuple[str, str]]] = {}
        for one in options:
            if (record := one.get_help_record(ctx)) is not None:
                title = COMMON if getattr(one, "common", 0) else getattr(one, "title", OUTPUT)
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def options_from(group: type, *names: str) -> Callable[[F], F]:
    """Add the options of a dataclass to a command, under the names of its fields.

    Args:
        group: the dataclass.
        names: of the fields; by default all that have a flag.
    """
    listed = [one for one in options_of(group) if one.flags and (not names or one.name in names)]
    spell = speller({one.name: one.flags[-1] for one in listed})

    def add(command: F) -> F:
        for one in reversed(listed):
            command = _made(one, spell)(command)
        return command

    return add


def _made(one: Option, spell: Callable[[str, str], str]) -> Callable[[F], F]:
    kind = one.type.removesuffix(" | None")
    flags: Sequence[str] = one.flags
    words = [one.help]
    known: dict[str, Any] = {
        "title": one.title,
        "common": one.common,
        "form": one.form,
        "former": one.former,
        "required": one.required,
    }
    if kind == "bool":
        flags = _switch(one)
        known |= {"is_flag": True, "default": one.default}
    else:
        known |= {"type": _type(one, kind), "metavar": one.metavar or _METAVARS.get(kind)}
        if "Sequence[" in kind or kind.startswith("Mapping["):
            known["multiple"] = True
            words = [f"{one.help.removesuffix('.')}; repeatable."]
        elif one.default is not None:
            known |= {"default": one.default, "show_default": one.default != ""}
    if one.otherwise:
        words.append(f" [default: {one.otherwise}]")
    help = spelled(" ".join(words), spell)
    return click.option(*flags, one.name, cls=TitledOption, help=help, **known)


def _type(one: Option, kind: str) -> click.ParamType[Any] | None:
    if one.form == "size":
        return Size()
    if one.form in ("file", "new model"):
        return WrittenFile()
    if one.choices:
        return click.Choice(tuple(one.choices))
    if kind.startswith("Mapping[") and "Sequence[" not in kind:
        return KeyValue(one.metavar or "KEY=VALUE")
    if kind not in ("int", "float"):
        return None
    ranges: Callable[..., click.ParamType[Any]] = click.IntRange if kind == "int" else click.FloatRange
    low = one.above if one.least is None else one.least
    high = one.below if one.most is None else one.most
    return ranges(low, high, min_open=one.least is None, max_open=one.most is None)


def _switch(one: Option) -> Sequence[str]:
    """``--correct/--no-correct`` where the option is not off by itself."""
    (flag,) = one.flags
    return (flag,) if one.default is False else (f"{flag}/--no-{flag.removeprefix('--')}",)


JSON = click.option(
    "--json",
    "json_path",
    cls=TitledOption,
    common=12,
    metavar="PATH",
    form="file",
    type=WrittenFile(),
    help="Write the result as JSON.",
)
PAGE = click.option(
    "--report",
    "html_path",
    cls=TitledOption,
    metavar="PATH.html",
    form="file",
    type=WrittenFile(),
    help="Write the result as a page.",
)
QUIET = click.option(
    "-q", "--quiet", "silent", cls=TitledOption, is_flag=True, help="Show nothing but errors."
)
SUMMARY = click.option(
    "--summary", "brief", cls=TitledOption, is_flag=True, help="Show the result in one line."
)
CONFIG = click.option(
    "--config",
    cls=TitledOption,
    metavar="FILE",
    type=click.Path(),
    is_eager=True,
    expose_value=False,
    callback=use_config,
    help="Take MODEL and options from the JSON of a run, or from names and values in JSON or TOML; "
    "what stands on the command line goes before them.",
)
OUT = click.argument("out", required=False, metavar="[OUT]")
