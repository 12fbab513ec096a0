"""What a model costs, as a function of how many channels each group keeps.

In: a coupled model. Out: polynomials in the kept counts for multiply-accumulates, parameters, bytes and
memory. Next: :mod:`obs_onnx.allocation` fills limits with them.
"""

from obs_onnx.passes.costs.model_costs import Cost, Costs

__all__ = ["Cost", "Costs"]
