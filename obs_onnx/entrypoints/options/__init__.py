"""What each public function can be asked, composed of the groups of options that rooms declare.

In: groups (:mod:`obs_onnx.option`), from the rooms that use them. Out: one frozen dataclass for each
function, and its typed keywords (``keywords``). Next: :mod:`obs_onnx.entrypoints` takes them,
:mod:`obs_onnx.cli.options` makes flags of them.
"""
