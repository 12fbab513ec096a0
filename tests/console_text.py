"""Text that a console shows, and names that hold markup."""

from __future__ import annotations

import io
from collections.abc import Callable

from rich.console import Console


def text_of(show: Callable[[Console], None], width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    show(console)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()
