"""What a reader should know about the result before trusting it to be faster or smaller."""

from __future__ import annotations

__all__ = ["advice"]

_DENSE = (
    "Zeroed weights do not speed up dense kernels: onnxruntime multiplies by the zeros. "
    "Expect the latency from before."
)
_TENSOR_CORES = (
    "2:4 profits on NVIDIA GPUs with sparse tensor cores (Ampere and later): "
    "let TensorRT build with sparsity enabled."
)
_OTHER_PATTERN = (
    "NVIDIA's sparse tensor cores take the pattern 2:4 only; "
    "other patterns need kernels that were written for them."
)
_WHERE = (
    "What does profit from single zeros: XNNPACK's sparse 1x1 convolutions, micro-NPUs that decompress "
    "weights on the fly (such as Arm Ethos-U), and storage or download in compressed form. "
    "For sparse tensor cores (TensorRT) ask for the pattern 2:4."
)


def advice(
    mode: str,
    pattern: str | None = None,
    *,
    compressed_before: int | None = None,
    compressed_after: int | None = None,
) -> tuple[str, ...]:
    """Notes for the report.

    Args:
        mode: ``weights`` or ``channels``; the latter needs no caution, its tensors really shrink.
        pattern: such as ``2:4`` or ``1x4``, or None for single weights.
        compressed_before, compressed_after: bytes after deflate.
    """
    if mode != "weights":
        return ()
    where = _WHERE if pattern is None else _TENSOR_CORES if pattern == "2:4" else _OTHER_PATTERN
    notes = [_DENSE, where]
    if compressed_before and compressed_after:
        ratio = compressed_before / compressed_after
        notes.append(
            f"The file keeps its size; zipped, it is {ratio:.1f} times smaller than the original zipped."
        )
    return tuple(notes)
