"""A hook of mkdocs: links of pages to files of the checkout, which are no pages, show their paths."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]*)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The text of a page, as the site shows it."""
    return _OUTSIDE.sub(_shown, markdown)


def _shown(link: re.Match[str]) -> str:
    """``text (path)``, or the path alone where the text says no more."""
    text, path = link[1], link[2]
    plain = text.strip("`")
    return f"`{path}`" if plain == path or path.endswith(f"/{plain}") else f"{text} (`{path}`)"
