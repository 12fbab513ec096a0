from layer_runs import mlp
from pruned_mlp import scaled_mlp

__all__ = ["mlp", "scaled_mlp"]
