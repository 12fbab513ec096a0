from command_line import folder
from easy_training import deep, easy
from linear_model import linear
from residual_data import labelled
from training_nets import data, net, package

__all__ = ["data", "deep", "easy", "folder", "labelled", "linear", "net", "package"]
