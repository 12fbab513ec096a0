"""What users have, as batches of arrays.

In: a path, arrays, a reader, ``module:function`` or ``random:N``. Out: a
:class:`~obs_onnx.data.sources.Source` of complete feeds, checked against the model's inputs and split into a
part to fit on and a held-out part. Next:
:mod:`obs_onnx.calibration` carries it through the model, :mod:`obs_onnx.evaluation` measures on it.
"""
