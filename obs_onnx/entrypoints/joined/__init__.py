"""Files that belong together: an encoder and decoders that are pruned as one model.

In: models or their files, in the order in which they run. Out: one model (``join``); its files again, smaller
(``split``). Next: :mod:`obs_onnx.entrypoints.prune` prunes what lies between.
"""
