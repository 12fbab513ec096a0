from criterion_cases import perceptron
from product_chain import gated_chain

__all__ = ["gated_chain", "perceptron"]
