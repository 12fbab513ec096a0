"""Data of language models: what exporters ask for beside token ids, and text.

In: token ids, or text files with a tokenizer. Out: complete feeds, see
:class:`~obs_onnx.data.language.filled_inputs.Filling`, and windows of token ids. Next:
:mod:`obs_onnx.data.open_source` opens them like any other data.
"""
