"""What every runtime can do: load a model, run it, time it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from obs_onnx.data.feeds import Feed, TensorSpec

__all__ = ["ModelSource", "Runtime", "Session"]

ModelSource = bytes | str | PathLike[str]


class Session(Protocol):
    """One loaded model."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that must be fed."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """All outputs, in the model's order."""

    def run(self, feed: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None) -> Feed:
        """Output name -> array for one complete feed; all outputs unless ``outputs`` names some."""

    def time(self, feed: Mapping[str, NDArray[Any]], runs: int) -> list[float]:
        """Seconds of each of ``runs`` runs on ``feed``, without the cost of copying the feed in."""


class Runtime(Protocol):
    """Where models run.

    Attributes:
        spec: as the user wrote it, for example ``onnxruntime:CUDAExecutionProvider``.
        threads: of one operator.
    """

    spec: str
    threads: int

    @property
    def quantum(self) -> int:
        """Power of two that channel counts should be multiples of, for speed."""

    @property
    def in_process(self) -> bool:
        """Whether models run in this process, whose threads can be kept on their cores."""

    @property
    def maps(self) -> bool:
        """Whether external data beside bytes is mapped and not copied."""

    @property
    def affinity(self) -> Sequence[int] | None:
        """The cores that a runtime outside of this process kept its last timing on; None if it did not."""

    def session(self, model: ModelSource, external_data: str | PathLike[str] | None = None) -> Session:
        """Load a model from its serialized bytes or from a file.

        Args:
            model: serialized bytes, or a path (the only way for models over 2 GB).
            external_data: folder of external data files, needed only with bytes; mapped where the runtime
                can do that.

        Raises:
            ModelError: the runtime cannot load it; the message has the first line of the reason.
        """

    def environment(self) -> dict[str, Any]:
        """Name, version and options of the runtime, ready for JSON; the same for as long as it exists."""

    def machine(self) -> dict[str, Any]:
        """The machine that models run on, as it is now; see
        :func:`obs_onnx.runtimes.machine.describe_machine`."""
