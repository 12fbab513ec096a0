"""What weights and channels are worth.

In: a model, calibration data, and what its outputs are compared with. Out: one number for each weight or
channel, of any scale; what is worth least goes first. :mod:`obs_onnx.criteria.channels` has one criterion a
file. Next: :mod:`obs_onnx.allocation` makes counts of the scores, :mod:`obs_onnx.reconstruction` curves.
"""
