from layer_runs import mlp

__all__ = ["mlp"]
