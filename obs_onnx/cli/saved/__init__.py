"""Commands about what lies in files already: results that are shown again, options that are used again.

In: JSON of earlier runs, recipes. Out: pages, tables, defaults of options. Next: :mod:`obs_onnx.report` shows
them, :mod:`obs_onnx.cli.options` takes the options.
"""
