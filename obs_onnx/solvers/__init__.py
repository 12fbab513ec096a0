"""Solvers: which weights of a layer go, and what the others become. Arrays in, arrays out, float64.

:func:`solve_layer_levels` is the entry point; :func:`prepare` and :func:`solve_levels` are its two halves.
All arrays are stacked over groups: ``h`` (G, I, I), ``c`` (G, I, O), ``w`` (G, O, I).
"""

from obs_onnx.solvers.least_squares import refit
from obs_onnx.solvers.patterns import UNSTRUCTURED, Pattern, follows, parse_pattern
from obs_onnx.solvers.problem import Problem, Solution, prepare
from obs_onnx.solvers.solve import METHODS, choose_method, solve, solve_layer_levels, solve_levels

__all__ = [
    "METHODS",
    "UNSTRUCTURED",
    "Pattern",
    "Problem",
    "Solution",
    "choose_method",
    "follows",
    "parse_pattern",
    "prepare",
    "refit",
    "solve",
    "solve_layer_levels",
    "solve_levels",
]
