"""Gates, rotations and norms that runtimes fuse; each element goes with those that it meets."""

from __future__ import annotations

from obs_onnx.passes.ops.vjp.fused.gates import RULES
from obs_onnx.passes.traits.atoms import Labels, fixed
from obs_onnx.passes.traits.lipschitz import data_only, pointwise
from obs_onnx.passes.traits.op import Op, differentiable, related
from obs_onnx.passes.traits.relation import Relation

__all__ = ["TABLE"]


def _relate_same(r: Relation) -> None:
    """Inputs of one shape, none of which is broadcast."""
    axes = r.axes(0)
    for slot in range(1, len(r.node.inputs)):
        if r.has(slot):
            for ours, theirs in zip(axes, r.axes(slot), strict=True):
                r.tie(ours, theirs)
    r.give([r.atoms.resolve(labels) for labels in axes])


def _halves(r: Relation, labels: Labels) -> Labels:
    """One of two halves in a row, an element of each of which makes one of the output."""
    half, element = r.atoms.split(labels, [2, len(labels) // 2])
    r.fix(half)
    return element


def _relate_swiglu(r: Relation) -> None:
    """com.microsoft SwiGLU: a gate and what it gates are inputs, or halves of one."""
    if r.has(1):
        _relate_same(r)
    else:
        x = r.axes(0)
        half = _halves(r, x[-1])
        r.give([*x[:-1], r.atoms.resolve(half)])


def _relate_split_gelu(r: Relation) -> None:
    """com.microsoft BiasSplitGelu: halves of the sum of an input and a bias."""
    x = r.axes(0)
    r.tie(x[-1], r.axes(1)[0])
    half = _halves(r, x[-1])
    r.give([*x[:-1], r.atoms.resolve(half)])


def _relate_rotated(r: Relation) -> None:
    """GemmaRotaryEmbedding: queries and keys (batch, heads, tokens, width), each with its rotated half.

    The angles are (batch, tokens, width).
    """
    angles = r.axes(0)
    meet = [angles[0], fixed(1), *angles[1:]]
    queries, keys = (r.broadcast([r.axes(slot), r.axes(slot + 1), meet]) for slot in (1, 3))
    r.give([r.atoms.resolve(labels) for labels in queries], 0)
    r.give(keys, 1)


def _relate_gated_norm(r: Relation) -> None:
    """com.microsoft GatedRMSNorm: heads in a row, each with statistics of its own."""
    x, scale = r.axes(0), r.axes(1)[0]
    for ours, theirs in zip(x, r.axes(2), strict=True):
        r.tie(ours, theirs)
    _, width = r.atoms.split(x[-1], [len(x[-1]) // len(scale), len(scale)])
    r.fix([width, scale], "its statistics mix the elements of a head")
    r.give([r.atoms.resolve(labels) for labels in x])


_KNOWN = related(
    {
        "com.microsoft::SwiGLU": Op(lipschitz=pointwise(None)),
        "com.microsoft::BiasSplitGelu": Op(lipschitz=pointwise(None)),
        "com.microsoft::GemmaRotaryEmbedding": Op(lipschitz=pointwise(None)),
        "com.microsoft::GatedRMSNorm": Op(lipschitz=data_only(None)),
    },
    {
        _relate_swiglu: "com.microsoft::SwiGLU",
        _relate_split_gelu: "com.microsoft::BiasSplitGelu",
        _relate_rotated: "com.microsoft::GemmaRotaryEmbedding",
        _relate_gated_norm: "com.microsoft::GatedRMSNorm",
    },
)

TABLE = differentiable(_KNOWN, RULES)
