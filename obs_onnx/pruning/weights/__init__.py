"""The mode that makes single weights zero.

In: a model and its layers. Out: the same model with zeros where they hurt least, the other weights refitted.
``layer_choice`` says which layers take part, ``search`` tries, ``mode`` says what is asked and promised,
``advice`` what zeros are good for. Next: :mod:`obs_onnx.pruning`.
"""
