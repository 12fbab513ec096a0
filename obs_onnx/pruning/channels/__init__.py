"""The mode that removes channels, heads and hidden units.

In: a model and its coupled groups. Out: a smaller dense model and what was kept of every tensor. Rounds of
trials (``search``) measure curves and allocate (``round``), remove, refit and judge (``attempt``); ``mode``
says what is asked and promised. Next: :mod:`obs_onnx.pruning`.
"""
