"""Sessions of a model that is held in memory: of all of it, of parts, and block by block.

In: a runtime and a model. Out: what runs feeds: a part of a model with values fed in its middle
(``partial_run``), a model whose weights are too many to be loaded at once (``block_session``), a file with
side files that the runtime does not find by itself (``model_files``). Next: everything that measures.
"""
