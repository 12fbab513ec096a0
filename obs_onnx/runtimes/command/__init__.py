"""The runtime ``command:``: another Python, on this or another machine, behind a pair of pipes.

In: a command line that starts a Python with onnxruntime. Out: a runtime like any other. ``worker`` is the far
side: files without imports of this project, which ``bundle`` makes one text to be sent there. Next:
:mod:`obs_onnx.runtimes`.
"""
