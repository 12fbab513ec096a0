from onnx_files import proto

__all__ = ["proto"]
