"""The public functions, one file each: from what users give to what they get.

In: a path or a model, data, and options. Out: a result (:mod:`obs_onnx.results`) and, where asked for, files,
written whole or not at all. Nothing is exported here, because a function would hide the module of its name:
take the functions from :mod:`obs_onnx`. Next: :mod:`obs_onnx.pruning` does the work of ``prune`` and
``pareto``; :mod:`obs_onnx.cli` calls what is here.
"""
