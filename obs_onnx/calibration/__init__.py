"""Calibration data carried through the model, stage by stage, and the second moments of every layer's inputs.

In: a model, its stages (:mod:`obs_onnx.passes.layers.stages`), samples (:mod:`obs_onnx.data`) and a runtime.
Out: moments ``h_GII``, ``c_GIO`` as arrays, accumulated while batches stream; activations exist at one stage
boundary at a time. Next: :mod:`obs_onnx.solvers` takes the moments, :mod:`obs_onnx.reconstruction` brings
both together.
"""
