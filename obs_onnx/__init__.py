"""obs-onnx: prune any ONNX model with layer-wise Optimal Brain Surgeon, and prove the result."""

__version__ = "0.1.0"
