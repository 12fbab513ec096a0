"""The options of :func:`obs_onnx.entrypoints.bench.bench`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from obs_onnx.data.options import FixedInputs, FreeSizes, LabelName
from obs_onnx.latency.options import TimedBatch
from obs_onnx.option import Options, option
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.runtimes.options import RuntimeOptions
from obs_onnx.runtimes.registry import DEFAULT

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BenchOptions"]


_RUNTIME = next(one for one in fields(RuntimeOptions) if one.name == "runtime")


@dataclass(frozen=True)
class Where(Options, title="Runtime"):
    """Where models run, which may stand behind them."""

    runtime: str = field(default=DEFAULT, metadata=_RUNTIME.metadata)


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Where, RuntimeOptions, FixedInputs, LabelName, FreeSizes, TimedBatch, title="Measuring"):
    """Everything that a comparison can be told.

    Raises:
        OptionError: a value that its option does not allow, or data and numbers in one.
    """

    data: object = option(
        None,
        help="Data whose first samples are timed.",
        otherwise="random numbers",
        metavar="SRC",
        form="data",
        common=2,
    )
    feed: Mapping[str, NDArray[Any]] | None = option(
        None, help="One complete feed in place of data.", flags="", recorded=False
    )
    seconds: float = option(3.0, help="Per model, warm-up included.", above=0)
    min_runs: int = option(20, help="Runs per model; a very slow one gets as few as 3.", least=1, flags="")
    pin: bool = option(
        True, help="Keep to as many cores as threads while measuring, in this process.", flags=""
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.feed is not None and (self.data is not None or self.sizes):
            raise OptionError(
                f"{named('feed')} is all that is timed: leave out {named('data')} and {named('sizes')}"
            )
