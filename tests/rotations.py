"""Streams of channels in tests of rotations: graphs around one stream, and random orthogonal matrices."""

from __future__ import annotations

import numpy as np
import onnx
from channel_graphs import model, node
from scipy.stats import ortho_group

__all__ = ["N", "matrix", "rms", "stream", "weights"]

N = 6
_RNG = np.random.default_rng(3)


def weights(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    return [_RNG.standard_normal(shape) for shape in shapes]


def rms(x: str, y: str) -> list[onnx.NodeProto]:
    """A norm as exporters write it out, without its scale."""
    return [
        node("Pow", f"{x} two", f"{y}_p"),
        node("ReduceMean", f"{y}_p last", f"{y}_m"),
        node("Add", f"{y}_m eps", f"{y}_a"),
        node("Sqrt", f"{y}_a", f"{y}_r"),
        node("Div", f"{x} {y}_r", y),
    ]


def stream(*nodes: onnx.NodeProto, opset: int = 20, **more: np.ndarray) -> onnx.ModelProto:
    """``h`` of N channels from a layer with a bias; ``nodes`` make ``z`` of it, which another layer reads."""
    w, b, v, s, t, u = weights((4, N), (N,), (N, 3), (N,), (N,), (N, N))
    held = {
        "w": w, "b": b, "v": v, "s": s + np.sign(s), "t": t, "u": u, "c": 1.5, "two": 2.0,
        "eps": 1e-5, "last": np.array([-1]), **more,
    }  # fmt: skip
    graph = [node("MatMul", "x w", "m"), node("Add", "m b", "h"), *nodes, node("MatMul", "z v", "y")]
    used = {name for one in graph for name in one.input}
    arrays = {
        k: np.asarray(a) if np.asarray(a).dtype.kind == "i" else np.asarray(a, np.float32)
        for k, a in held.items()
        if k in used
    }
    found = model(graph, arrays, x=("N", 5, 4), y=("N", 5, 3), opset=opset)
    found.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    return found


def matrix(n: int, keeps_ones: bool, seed: int) -> np.ndarray:
    """A random orthogonal matrix."""
    inside = ortho_group.rvs(n - keeps_ones, random_state=seed)
    if not keeps_ones:
        return np.asarray(inside)
    across = np.linalg.qr(np.concatenate([np.ones((n, 1)), np.eye(n)[:, 1:]], axis=1))[0][:, 1:]
    return np.asarray(across @ inside @ across.T + 1 / n)
