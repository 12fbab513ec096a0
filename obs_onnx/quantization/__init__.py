"""Models in integers, beside the same in float.

In: the dense and the pruned model and calibration data. Out: quantized models, and the four measured on the
same data. Next: :mod:`obs_onnx.entrypoints` writes and reports them.
"""
