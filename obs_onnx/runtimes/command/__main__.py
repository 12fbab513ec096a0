"""``python -m obs_onnx.runtimes.command > worker.py``: the worker as one file, to be copied by hand."""

import sys

from obs_onnx.runtimes.command.bundle import bundle

sys.stdout.write(bundle())
