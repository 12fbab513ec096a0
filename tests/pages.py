"""What stands in the documents: blocks of code, headings, links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Block", "anchors", "blocks", "links"]

_FENCE = re.compile(
    r"^(?:<!-- run(?P<run>:[^>]*)? -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_INDENTED = re.compile(r"(?:^ {4}.*\n?)+", re.M)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        text, language: as they stand; an indented block has no language.
        runs: it is run by the tests.
        packages: that it needs beside those of the project.
    """

    text: str
    language: str = ""
    runs: bool = False
    packages: tuple[str, ...] = ()


def blocks(page: Path) -> Iterator[Block]:
    """All of them, fenced ones first; a comment ``<!-- run -->`` stands before those that run."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        names = (found["run"] or "").strip(": ").replace(",", " ").split()
        yield Block(found["text"], found["language"], found[0].startswith("<!--"), tuple(names))
    for indented in _INDENTED.findall(_FENCE.sub("", text)):
        yield Block("".join(line[4:] for line in indented.splitlines(keepends=True)))


def links(page: Path) -> list[str]:
    """Targets of all links, code left out."""
    text = _INDENTED.sub("", _FENCE.sub("", page.read_text(encoding="utf-8")))
    return [link for link in _LINK.findall(text) if not re.match(r"\w+:", link)]


def anchors(page: Path) -> set[str]:
    """Places in a page that both a code host and the site of the documents know."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for title in re.findall(r"^#+ +(.*)$", text, re.M):
        plain = re.sub(r"[^\w\s-]", "", title).strip().lower()
        here, there = plain.replace(" ", "-"), re.sub(r"[-\s]+", "-", plain)
        found |= {here} if here == there else set()
    return found
