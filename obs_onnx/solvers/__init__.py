"""Solvers: which weights of a layer go, and what the others become. Arrays in, arrays out, float64.

In: second moments and weights of a layer, stacked over groups: ``h`` (G, I, I), ``c`` (G, I, O), ``w`` (G, O,
I). :func:`prepare` makes them a :class:`Problem`, :func:`solve_levels` solves it. Out: a :class:`Solution`
for each sparsity; :func:`round_weights` puts weights on a grid of integers. Next:
:mod:`obs_onnx.reconstruction` puts it into the model.
"""

from obs_onnx.solvers.grids import Grid, GridKind
from obs_onnx.solvers.least_squares import refit
from obs_onnx.solvers.patterns import UNSTRUCTURED, Pattern, follows, parse_pattern
from obs_onnx.solvers.problem import Problem, Solution, prepare
from obs_onnx.solvers.rounding import Rounded, round_weights
from obs_onnx.solvers.solve import METHODS, choose_method, solve_levels

__all__ = [
    "METHODS",
    "UNSTRUCTURED",
    "Grid",
    "GridKind",
    "Pattern",
    "Problem",
    "Rounded",
    "Solution",
    "choose_method",
    "follows",
    "parse_pattern",
    "prepare",
    "refit",
    "round_weights",
    "solve_levels",
]
