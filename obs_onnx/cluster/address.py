"""Where workers are, as it is written: ``tcp://scheduler:8786``, ``tls://scheduler:8786``, ``local:4``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from obs_onnx.passes.errors import OptionError, named

__all__ = ["Address", "Local", "parse_address"]

_LOCAL = re.compile(r"local:([1-9][0-9]{0,3})")
_REMOTE = re.compile(r"(tcp|tls)://(\[[0-9A-Fa-f:.%]+\]|[^\s/:\[\]]+):([1-9][0-9]{0,4})/?")


@dataclass(frozen=True)
class Local:
    """Workers of this machine.

    Attributes:
        workers: processes.
    """

    workers: int


@dataclass(frozen=True)
class Address:
    """A scheduler.

    Attributes:
        url: all of it.
        host, port: parts of it.
    """

    url: str
    host: str
    port: int


def parse_address(text: str) -> Local | Address:
    """What an option says.

    Raises:
        OptionError: it is neither.
    """
    if found := _LOCAL.fullmatch(text):
        return Local(int(found[1]))
    if (found := _REMOTE.fullmatch(text)) and int(found[3]) < 1 << 16:
        return Address(text.removesuffix("/"), found[2].strip("[]"), int(found[3]))
    raise OptionError(
        f"{named('cluster', text)}: use tcp://HOST:PORT or tls://HOST:PORT of a scheduler, or local:N for N "
        "processes of this machine"
    )
