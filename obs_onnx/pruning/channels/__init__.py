"""The mode that removes channels, heads and hidden units.

In: a model and its coupled groups (``plan``). Out: a smaller dense model and what was kept of every tensor
(``attempt``), with its promises checked (``result``). The rounds of a search (``search``) measure curves
(``curves``), allocate under limits on costs (``round``, ``costs``), remove what is not selected
(``selection``), refit and judge (``task``). Next: :mod:`obs_onnx.pruning`.
"""
