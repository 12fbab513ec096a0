"""The report of a run as one page: it needs no network, no script and no drawing library.

In: a :class:`~obs_onnx.results.pruning.Report`. Out: HTML with pictures in SVG, readable on a phone, in the
dark and on paper. Next: :mod:`obs_onnx.report.readable` and :mod:`obs_onnx.cli` write it.
"""
