"""The mode that makes single weights zero.

In: a model and its layers (``plan``), of which ``layer_choice`` says what happens to each. Out: the same
model with zeros where they hurt least, the other weights refitted (``attempt``), with its promises checked
(``result``); ``advice`` says what zeros are good for. The rounds of a search (``search``) measure curves,
share the zeros out, prune, refit and judge (``task``). Next: :mod:`obs_onnx.pruning`.
"""
