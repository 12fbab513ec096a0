"""What an operator may declare: the vocabulary of the operator tables.

In: a node. Out: how it multiplies by a constant (``linear``), how elements of its axes relate (``relation``,
``atoms``), what restates a size (``shrink``), its derivative (``vjp``), its Lipschitz constants
(``lipschitz``); ``op`` is the record of all of them, in which None means *not known*. Next:
:mod:`obs_onnx.passes.ops` fills the tables.
"""
