"""The runtime ``command:``: another Python, on this or another machine, behind a pair of pipes.

In: a command line that starts a Python with onnxruntime. Out: a runtime like any other. ``worker`` is one
file without imports of this package: its text is sent to the other side. Next: :mod:`obs_onnx.runtimes`.
"""
