from pruned_mlp import scaled_mlp

__all__ = ["scaled_mlp"]
