"""Pages from their templates: all text is escaped, and what does not show in it as well."""

from __future__ import annotations

from importlib import resources

from obs_onnx.passes.printable import printable
from obs_onnx.report import format as fmt
from obs_onnx.results.pruning import plain

__all__ = ["filled", "render"]


def render(name: str, values: dict[str, object]) -> str:
    """A page; the same values give the same page.

    Args:
        name: of the template in this folder.
        values: that it shows.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup, escape

    def together(text: str) -> Markup:
        """A number and its unit on one line; a range may be broken in between."""
        return Markup(str(escape(printable(text))).replace(" ", "&nbsp;").replace("..", "..<wbr>"))

    def path(text: str) -> Markup:
        """A path, which is broken between its parts first."""
        return Markup(str(escape(printable(text))).replace("/", "/<wbr>"))

    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters.update(
        percent=fmt.percent, error=fmt.error, count=fmt.count, plain=plain, together=together, path=path
    )
    return environment.get_template(name).render(values)


def _source(name: str) -> str:
    return resources.files("obs_onnx.report.page").joinpath(name).read_text(encoding="utf-8")


def filled(
    headings: tuple[str, ...], rows: list[tuple[str, ...]]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A table without the columns in which no row has anything."""
    used = [i for i in range(len(headings)) if any(row[i] not in ("", fmt.DASH) for row in rows)]
    return tuple(headings[i] for i in used), [tuple(row[i] for i in used) for row in rows]
