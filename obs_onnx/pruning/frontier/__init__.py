"""Many smaller models of one: the frontier of a cost and what it loses.

In: the channels of a calibrated model, with their curves and times. Out: candidates along a cost
(``search``), each checked when it is made and all of them measured together (``points``). Next:
:mod:`obs_onnx.entrypoints` writes them.
"""
