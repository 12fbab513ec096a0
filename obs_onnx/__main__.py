"""``python -m obs_onnx``: the command line."""

from obs_onnx.cli import main

main()
