"""Tasks that do not depend on each other, done by several processes of this machine or of others.

In: where workers are (:mod:`.address`), and tasks that hold plain data. Out: what they give, as each is done.
Next: :mod:`obs_onnx.work` keeps it. Dask schedules; without a cluster the tasks are done in turn, here.
"""
