"""What is left is refitted: layer by layer, on what the pruned model really gives, then all weights together.

In: counts or masks (:mod:`obs_onnx.allocation`), moments (:mod:`obs_onnx.calibration`), solvers. Out: new
weights, and the damage curves that allocation goes by, of layers or of groups of channels. Next:
:mod:`obs_onnx.pruning` judges the result.
"""
