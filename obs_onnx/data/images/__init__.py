"""Folders of images as samples.

In: a folder, the model's input, and how its pixels were prepared for training: a name, a dict or a JSON file.
Out: :class:`~obs_onnx.data.images.image_files.ImageRows`, decoded on demand, and labels. Next:
:mod:`obs_onnx.data.open_source` cuts them into batches. docs/data.md describes the preprocessing.
"""
