from training_nets import data, net, package

__all__ = ["data", "net", "package"]
