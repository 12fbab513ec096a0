"""Light retraining: zeros stay zeros, shapes stay shapes.

In: a pruned model, data, and labels or a dense model to learn from. Out: new weights, and the losses before
and after. ``loop`` runs the steps, :mod:`obs_onnx.training.engines` makes them. Next: :mod:`obs_onnx.pruning`
judges the retrained model.
"""
