"""How much of each layer or group goes, for the targets that were asked for.

In: damage curves (:mod:`obs_onnx.reconstruction`) or scores (:mod:`obs_onnx.criteria`), costs as functions of
what is kept (:mod:`obs_onnx.passes.costs`), and limits. Out: counts of weights or channels that are kept. No
model, no runtime: arrays and numbers. Next: :mod:`obs_onnx.reconstruction` solves for what was allocated.
"""
