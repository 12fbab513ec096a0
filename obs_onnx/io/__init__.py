"""Files: models, JSON, and how anything is written.

In: paths that users give. Out: checked :class:`onnx_ir.Model` objects; files that appear whole or not at all.
Next: :mod:`obs_onnx.passes` takes the models, :mod:`obs_onnx.entrypoints` writes the results.
"""
