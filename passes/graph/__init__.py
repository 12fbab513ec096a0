"""Graphs as data: names, values, bodies, parts; reading nodes and writing new ones.

In: an :class:`onnx_ir.Model`. Out: facts about its nodes, parts of it, or the model with nodes added or
weights set. Nothing here knows what an operator means. Next: :mod:`obs_onnx.passes.shapes`.
"""
