from canonical_forms import check
from gradients import gradient_of
from layer_search import find

__all__ = ["check", "find", "gradient_of"]
