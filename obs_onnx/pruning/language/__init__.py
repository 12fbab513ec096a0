"""What belongs to language models alone: fewer tokens of a vocabulary, and the configurations beside a model.

In: a language model, token ids that stay, and the files beside it. Out: what of the vocabulary stays, and new
configurations. Next: :mod:`obs_onnx.entrypoints` writes them beside the smaller model.
"""
