"""What runs return: frozen dataclasses, of which console, HTML and JSON are views.

In: figures that other rooms measured. Out: the records themselves; nothing is computed here but what follows
from their own fields. Next: :mod:`obs_onnx.report` shows them, :mod:`obs_onnx.io.json_file` writes them.
"""
