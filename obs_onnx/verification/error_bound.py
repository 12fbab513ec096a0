"""How far the pruned network's outputs can be from the dense one's, proven layer by layer.

For a plain chain of layers with activations that do not stretch distances (ReLU), Dong et al., "Learning
to Prune Deep Neural Networks via Layer-wise Optimal Brain Surgeon" (NeurIPS 2017, arXiv:1705.07565), show
that a layer's error after its activation is at most that before it (Lemma 3.1), and that the errors add up
to at most

    e_L <= sum_k E_k * prod_{l > k} ||W'_l||_F                                        (Theorem 3.2)

where ``E_k = ||(W'_k - W_k) X_k||_F`` on the dense network's inputs and ``W'`` are the pruned weights.
Unrolled, it is the recurrence ``e_y = ||W'|| e_x + E``, which this module runs over any graph in
topological order:

1. A layer adds its own error, and scales what comes in by the norm of its weight as an operator.
2. Any other node adds up what comes in, each input scaled by the node's Lipschitz constant for it.
3. A node on an affected path without a Lipschitz constant ends the proof for everything that follows it, as
   does one that draws random numbers.

Spectral norms are valid in place of Frobenius norms, and never larger. The bounds of the outputs are put
together as :mod:`obs_onnx.evaluation.quality` does with what is measured: all of an output's change may lie
in one of its parts. No measured error may be larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.passes.errors import VerificationError
from obs_onnx.passes.graph.node_facts import FLOATS, INFERRED
from obs_onnx.passes.graph.scopes import bodies, captured
from obs_onnx.passes.layers.layer import Layer
from obs_onnx.passes.ops import key, linear, lookup
from obs_onnx.passes.ops.quantized.weights import multiplied
from obs_onnx.passes.traits.linear import ConvGeometry, Linear, MatmulGeometry
from obs_onnx.solvers.blas_threads import threads_for
from obs_onnx.verification.operator_norms import frobenius_norm, spectral_norm

__all__ = ["Bound", "network_bound"]

Blockers = dict[tuple[str, str], None]
Norm = Callable[[NDArray[np.float64], ConvGeometry | MatmulGeometry], float]


@dataclass(frozen=True)
class Bound:
    """Upper bounds of the relative output error, over the data that the layer errors were measured on.

    Attributes:
        frobenius, spectral: of the largest error among the parts of the outputs (see
            :mod:`obs_onnx.evaluation.measures.parts`), with Frobenius and with spectral norms; None where
            there is none.
        blocked_by: (node, op_type) of every operator without a Lipschitz constant on a path from a changed
            layer to an output, in topological order.
    """

    frobenius: float | None
    spectral: float | None
    blocked_by: tuple[tuple[str, str], ...] = ()


def network_bound(
    model: ir.Model,
    layers: Sequence[Layer],
    layer_errors: Mapping[str, float],
    weights: Mapping[str, NDArray[np.floating]],
    reference: Mapping[str, float],
    measured: Mapping[str, float] | None = None,
    scales: Mapping[str, float] | None = None,
) -> Bound:
    """The bound for a whole model.

    Args:
        model: canonical, dense or pruned (only its structure and its unchanged weights are read).
        layers: all layers that were changed, and any others.
        layer_errors: by layer name, the Frobenius norm, over the whole calibration set and all uses of the
            weight, of the change of the layer's outputs (bias included) when its inputs are the dense
            model's. A layer without an entry has no error.
        weights: by layer name, ``w_GOI`` after pruning; a layer without an entry keeps the model's weight.
        reference: by output name, the Frobenius norm of the dense model's output over the same data.
        measured: by output name, the Frobenius norm of the output's change over the same data, which is held
            against the bound.
        scales: by output name, the least norm that the error of one of its parts is relative to, over the
            same data; by default the ones in ``reference``.

    Returns:
        The bound of the outputs in ``scales``. Changes outside the layers' own weights and biases are not
        covered.

    Raises:
        VerificationError: an output changed by more than its bound.
    """
    changed = {
        use.node: (use.y, float(layer_errors.get(layer.name, 0.0))) for layer in layers for use in layer.uses
    }
    symbols = {
        dim.value for value in model.graph.inputs for dim in value.shape or () if not isinstance(dim, int)
    }
    relative = reference if scales is None else scales
    found = []
    for norm in (frobenius_norm, spectral_norm):
        walk = _Walk(changed, weights, norm, symbols)
        for node in model.graph:
            walk.visit(node)
        found.append(_relative([(walk.errors.get(name, 0.0), scale) for name, scale in relative.items()]))
        for name, change in (measured or {}).items():
            _check(name, change, walk.errors.get(name, 0.0), _ROUNDING * _epsilon(model) * reference[name])
    blocked = {key_: None for name in reference for key_ in walk.blockers.get(name, {})}
    order = {str(node.name): index for index, node in enumerate(model.graph)}
    return Bound(found[0], found[1], tuple(sorted(blocked, key=lambda item: order[item[0]])))


_ROUNDING = 100  # units in the last place, relative to the output, that a runtime may be off
_SLACK = 1e-3  # of a bound, since the errors it starts from are measured, too


def _check(name: str, change: float, bound: float, rounding: float) -> None:
    if change > bound * (1 + _SLACK) + rounding:
        raise VerificationError(
            f"output {name!r} changed by {change:.4g}, more than the {bound:.4g} that is proven: please "
            "report this model, as one of its operators stretches differences more than its table says"
        )


def _epsilon(model: ir.Model) -> float:
    """Of the coarsest type that the model computes in."""
    kinds = {value.dtype for node in model.graph for value in node.outputs}
    found = (ml_dtypes.finfo(kind.numpy()).eps for kind in FLOATS if kind in kinds)  # type: ignore[no-untyped-call]
    return max(map(float, found), default=0.0)


def _relative(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Of (bound, norm) for each output."""
    if any(error > 0.0 and (norm <= 0.0 or not math.isfinite(error)) for error, norm in pairs) or not pairs:
        return None
    return max(error / norm if error else 0.0 for error, norm in pairs)


class _Walk:
    """Bounds of ``||change of a value||_F`` by value name; values without an entry do not change."""

    def __init__(
        self,
        changed: Mapping[str, tuple[str, float]],
        weights: Mapping[str, NDArray[np.floating]],
        norm: Norm,
        symbols: set[str | None],
    ) -> None:
        self._symbols = symbols
        self.errors: dict[str, float] = {}
        self.blockers: dict[str, Blockers] = {}
        self._changed = changed
        self._weights = weights
        self._norm = norm
        self._settled: set[str] = set()
        self._norms: dict[tuple[str, ConvGeometry | MatmulGeometry], float] = {}

    def visit(self, node: ir.Node) -> None:
        """Bound the outputs of ``node`` from the bounds of its inputs (cases 1 to 3)."""
        names = [None if value is None else str(value.name) for value in node.inputs]
        reached = [
            index for index, name in enumerate(names) if name is not None and self.errors.get(name, 0.0) > 0.0
        ]
        y, error = self._changed.get(str(node.name), (None, 0.0))
        blockers: Blockers = {}
        if reached:
            gains = self._gains(node, reached)
            for index in reached:
                name, gain = str(names[index]), gains[index]
                if gain == 0.0 and (math.isfinite(self.errors[name]) or self._has_fixed_shape(node, index)):
                    continue
                blockers |= self.blockers.get(name, {})
                if gain is None:
                    blockers[str(node.name), key(node)] = None
                error += gain * self.errors[name] if gain else math.inf
        if self._captures_change(node) or lookup(node).random:
            blockers[str(node.name), key(node)] = None
            error = math.inf
        for output in (*(str(value.name) for value in node.outputs), *([y] if y else [])):
            if output not in self._settled:
                self.errors[output] = error
                self.blockers[output] = blockers
        if y is not None:
            self._settled.add(y)

    def _has_fixed_shape(self, node: ir.Node, index: int) -> bool:
        """Whether the shape of an input follows from those of the model's inputs."""
        value = node.inputs[index]
        shape = None if value is None else value.meta.get(INFERRED) or value.shape
        return shape is not None and all(isinstance(n, int) or n.value in self._symbols for n in shape)

    def _gains(self, node: ir.Node, reached: Sequence[int]) -> list[float | None]:
        """Factor of every input's change; None where nothing is known."""
        known = _lipschitz(node)
        gains = [*known, *[None] * (len(node.inputs) - len(known))]
        found = linear(node)
        if found is not None and found.data_input in reached:
            gains[found.data_input] = self._operator_norm(node, found)
        return [gain if gain is not None and math.isfinite(gain) else None for gain in gains]

    def _operator_norm(self, node: ir.Node, product: Linear) -> float | None:
        value = node.inputs[product.weight_input]
        assert value is not None
        cached = (str(value.name), product.geometry)
        if cached not in self._norms:
            w_GOI = self._weights.get(str(value.name))
            if w_GOI is None:
                tensor = multiplied(node, product)
                if tensor is None:
                    return None
                w_GOI = product.layout.to_matrix(tensor)
            with threads_for(w_GOI.shape[2]):
                self._norms[cached] = self._norm(np.asarray(w_GOI, np.float64), product.geometry)
        return self._norms[cached]

    def _captures_change(self, node: ir.Node) -> bool:
        """True if a body of ``node`` (If, Loop, Scan) reads a changed value or holds a changed layer."""
        inner = (str(one.name) for body in bodies(node) for one in body.all_nodes())
        taken = (str(value.name) for value in captured(node))
        return any(name in self._changed for name in inner) or any(
            self.errors.get(name, 0.0) > 0.0 for name in taken
        )


def _lipschitz(node: ir.Node) -> tuple[float | None, ...]:
    """What the operator's rule says; nothing where a node is not what the rule expects."""
    rule = lookup(node).lipschitz
    try:
        return () if rule is None else rule(node)
    except Exception:  # a bound that cannot be had is not known
        return ()
