"""Channels: what can only go together, and how it goes.

In: a canonical model. Out: coupled groups of axis elements and what is frozen and why (``coupling``), the
model without some of them (``remove_channels``), the same with them silenced (``silence``), the record of
what stays (``keep_file``). Next: :mod:`obs_onnx.passes.costs` says what a channel costs.
"""
