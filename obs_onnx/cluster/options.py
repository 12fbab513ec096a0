"""Options about who does the work."""

from __future__ import annotations

from dataclasses import dataclass

from obs_onnx.cluster.address import parse_address
from obs_onnx.option import Options, option

__all__ = ["ClusterOptions"]


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options, title="Measuring"):
    """Where layers are solved.

    Raises:
        OptionError: what names no cluster.
    """

    cluster: str | None = option(
        None,
        help="Workers of dask that solve layers: tcp://SCHEDULER:8786, or local:N processes here.",
        more="The result is the same as without. See docs/cluster.md.",
        otherwise="this process alone",
        metavar="WHERE",
        form="cluster",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cluster is not None:
            parse_address(self.cluster)
