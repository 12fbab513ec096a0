"""Writes api.md: what Python programs may use, from its own docstrings.

python docs/make_api.py
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import runpy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import obs_onnx
from obs_onnx.evaluation.quality import Evaluation
from obs_onnx.option import options_of
from obs_onnx.passes import errors
from obs_onnx.report import ReadableReport
from obs_onnx.results.benchmark import Benchmark
from obs_onnx.results.frontier import Frontier, Point
from obs_onnx.results.inspection import Inspection
from obs_onnx.results.pruning import Figures, GroupResult, Latency, LayerResult, Missed, PartError, Report

PAGE = Path(__file__).with_name("api.md")
VERBS: Mapping[str, type] = runpy.run_path(str(PAGE.with_name("make_options.py")))["VERBS"]
HEAD = """# Python

Written by `python docs/make_api.py` from the docstrings. `import obs_onnx` takes no time: everything is
loaded on first use. Functions write nothing unless `output` is given, take files, `onnx.ModelProto` and
`onnx_ir.Model` alike, and leave what they are given as it was. What is listed here
[stays compatible](compatibility.md).
"""
FIGURES = (
    Report,
    ReadableReport,
    Figures,
    Latency,
    PartError,
    LayerResult,
    GroupResult,
    Missed,
    Frontier,
    Point,
    Benchmark,
    Evaluation,
    Inspection,
)
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):$", re.MULTILINE)
_ITEM = re.compile(r"^    (\S[^:]*): ", re.MULTILINE)


@dataclass(frozen=True)
class Doc:
    """A docstring in its parts: what stands first, and sections by name."""

    about: str
    sections: Mapping[str, str]

    @classmethod
    def of(cls, thing: object) -> Doc:
        """That of a function or a class itself."""
        text = inspect.cleandoc(
            vars(thing).get("__doc__") if isinstance(thing, type) else thing.__doc__ or ""
        )
        about, *rest = _SECTION.split(text)
        return cls(_marked(about.strip()), dict(zip(rest[::2], rest[1::2], strict=True)))

    def items(self, section: str) -> list[tuple[str, str]]:
        """Names of a section and what is said of them."""
        _, *rest = _ITEM.split(self.sections.get(section, ""))
        return [
            (name, _marked(" ".join(text.split()))) for name, text in zip(rest[::2], rest[1::2], strict=True)
        ]


def page() -> str:
    """The whole page."""
    made = [getattr(obs_onnx, name) for name in obs_onnx.__all__ if name != "__version__"]
    verbs = [one for one in made if not isinstance(one, type)]
    parts = [HEAD, "## Functions\n", *(_function(one) for one in verbs)]
    parts += ["## What they return\n", *(_class(one) for one in made if isinstance(one, type))]
    parts += ["## Figures\n", *(_class(one) for one in FIGURES)]
    return "\n".join([*parts, _errors()])


def _function(verb: Callable[..., object]) -> str:
    doc, name = Doc.of(verb), verb.__name__
    options = {one.name for one in options_of(VERBS[name])} if name in VERBS else set()
    parameters = inspect.signature(verb).parameters.values()
    first = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    returns = str(inspect.signature(verb).return_annotation)
    taken = ", ".join([*first, *(["*", "..."] if options else [])])
    lines = [f"### {name}\n", f"`{name}({taken}) -> {returns}`\n", f"{doc.about}\n"]
    lines += [f"* `{one}`: {text}" for one, text in doc.items("Args") if one not in options]
    lines += [f"* all others: [options](options.md#{name})"] if options else []
    lines.append("")
    return "\n".join([*lines, *_behind(doc)])


def _class(kind: type) -> str:
    doc = Doc.of(kind)
    lines = [f"### {kind.__name__}\n", f"{doc.about}\n"]
    lines += [
        f"* `{name}`: {text}" for section in ("Args", "Attributes") for name, text in doc.items(section)
    ]
    if dataclasses.is_dataclass(kind) and not doc.sections:
        lines += [f"* `{one.name}`: `{one.type}`" for one in dataclasses.fields(kind)]
    for name, one in vars(kind).items():
        told = one.fget if isinstance(one, property) else getattr(one, "__func__", one)
        if name.startswith("_") or not inspect.isfunction(told) or not told.__doc__:
            continue  # nothing to say, or for the program alone
        of = [each for each in inspect.signature(told).parameters if each not in ("self", "cls")]
        called = name if isinstance(one, property) else f"{name}({', '.join(of)})"
        lines.append(f"* `{called}`: {' '.join(Doc.of(told).about.split())}")
    return "\n".join([*lines, "", *_behind(doc)])


def _behind(doc: Doc) -> list[str]:
    lines = []
    if "Returns" in doc.sections:
        lines += [f"Returns: {_marked(' '.join(doc.sections['Returns'].split()))}\n"]
    if items := doc.items("Raises"):
        lines += ["Raises:\n", *(f"* `{name}`: {text}" for name, text in items), ""]
    return lines


def _errors() -> str:
    """The tree of errors."""
    lines = ["## Errors\n", "All of `obs_onnx.passes.errors`.\n", "| error | is a | says |", "|---|---|---|"]
    for name in errors.__all__:
        kind = getattr(errors, name)
        if isinstance(kind, type) and issubclass(kind, Exception):
            about = " ".join(Doc.of(kind).about.split())
            lines.append(f"| `{name}` | `{kind.__mro__[1].__name__}` | {about} |")
    return "\n".join([*lines, ""])


def _marked(text: str) -> str:
    """Names as code, in Markdown; what looks like a tag is escaped."""
    text = re.sub(r":\w+:`~?\.?([^`]+)`", lambda found: f"`{found[1]}`", text)
    text = text.replace("``", "`")
    return "`".join(
        part.replace("<", "&lt;") if number % 2 == 0 else part for number, part in enumerate(text.split("`"))
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
