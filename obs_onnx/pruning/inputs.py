"""What is opened before anything is computed: the model and the runtimes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from os import PathLike
from pathlib import Path

import onnx_ir as ir

from obs_onnx.data.feeds import Feed, TensorSpec
from obs_onnx.data.fixed import fixed_names, with_fixed
from obs_onnx.data.language.cache_sizes import implied_sizes
from obs_onnx.data.language.tokens import Tokens, TokenSource
from obs_onnx.data.open_source import open_source
from obs_onnx.data.sources import Source
from obs_onnx.evaluation.free_batch import find_free_batch
from obs_onnx.evaluation.run_cost import MOST_SAMPLES
from obs_onnx.io.onnx_file import ModelLike, open_model, serialize
from obs_onnx.io.paths import calibration_of, configs_beside, tokenizer_beside
from obs_onnx.passes.batch.free_batch import FreeBatch
from obs_onnx.passes.canonical.fixed_numbers import random_nodes
from obs_onnx.passes.errors import OptionError, named
from obs_onnx.passes.graph.inputs import real_inputs
from obs_onnx.passes.graph.scopes import bodies
from obs_onnx.passes.interface.caches import changing
from obs_onnx.passes.ops import key
from obs_onnx.pruning.language.fewer_tokens import (
    FewerTokens,
    Reduced,
    named_tokens,
    read_config,
    reduced,
)
from obs_onnx.pruning.options import SearchOptions
from obs_onnx.runtimes import Runtime, calibration_runtime, open_runtime
from obs_onnx.runtimes.observed_shapes import declare_shapes
from obs_onnx.runtimes.onnxruntime import OrtRuntime
from obs_onnx.runtimes.tool import Tool, ToolRuntime
from obs_onnx.verification.front import Front, find_front

__all__ = ["Inputs", "check_fixed_batch", "load", "open_calibration"]

_SAMPLE = 4  # rows that shapes are seen on


@dataclass(frozen=True)
class Inputs:
    """A model as it came in, and where it runs.

    Attributes:
        front: the model as it came in, and where it is cut; not changed.
        given: what of it is pruned and measured, with the shapes that only the runtime knows.
        batch: how :attr:`model` was made of it, where that has a fixed batch.
        name: for people.
        path: its file, or None.
        runtime: where models are calibrated and judged, with the same random numbers in every run.
        target: where latency counts.
        tool: tells costs, if one does.
        sizes: values of named free sizes of inputs that the model implies.
        fewer: tokens that stay, where the vocabulary was cut; :attr:`original` is the model with these.
    """

    front: Front
    given: ir.Model
    batch: FreeBatch | None
    name: str
    path: Path | None
    runtime: Runtime
    target: Runtime
    sizes: Mapping[str, int] = field(default_factory=dict)
    fewer: FewerTokens | None = None
    tool: Tool | None = None

    @property
    def model(self) -> ir.Model:
        """What is pruned and measured: it takes any number of samples, where that is possible."""
        return self.given if self.batch is None else self.batch.model

    @property
    def original(self) -> ir.Model:
        """The model as it came in."""
        return self.front.original

    @property
    def samples(self) -> int:
        """In one run of the model as it came in, where that is fixed and another form of it is measured."""
        return 1 if self.batch is None else self.batch.size

    @property
    def notes(self) -> tuple[str, ...]:
        """That the vocabulary was cut, and where a fixed batch stays, for people."""
        return (*(() if self.fewer is None else self.fewer.notes), *self._fixed_batch)

    @property
    def file(self) -> Path | None:
        """That holds :attr:`original`, or None."""
        return self.path if self.fewer is None else None

    @property
    def _fixed_batch(self) -> tuple[str, ...]:
        shapes = [value.shape for value in real_inputs(self.given) if value.shape is not None]
        fixed = [shape for shape in shapes if len(shape) > 1]
        if self.batch is not None or not fixed or not all(isinstance(shape[0], int) for shape in fixed):
            return ()
        inner = [node for node in self.given.graph if any(True for _ in bodies(node))]
        where = f" (node {inner[0].name}, {key(inner[0])}, has a body of its own)" if inner else ""
        return (
            f"no way was found to give the model more than one of its fixed batches at a time{where}: "
            "it is run on each by itself, which takes longer; export it with a free batch",
        )

    def put_back(self, model: ir.Model) -> ir.Model:
        """A model made from :attr:`model`, with the batch of the one that came in."""
        return model if self.batch is None else self.batch.put_back(model)


def load(
    model: ModelLike, options: SearchOptions, vocabulary: str | None = None, cost: str | None = None
) -> Inputs:
    """Open a model and the runtimes that ``options`` name.

    Args:
        model: a file, or a model in memory.
        options: of the run.
        vocabulary: which tokens stay, see :func:`obs_onnx.pruning.language.fewer_tokens.reduced`; None for
            all.
        cost: a command that tells costs.

    Raises:
        ModelError, DataError, OptionError, MissingRuntimeError: bad input.
    """
    original, name, path = open_model(model, None)
    given = options.runtime, options.threads, options.custom_ops
    target, here = open_runtime(*given), calibration_runtime(*given)
    tool = None if cost is None else Tool(cost)
    if tool is not None and tool.costs(serialize(original)).latency_ms is not None:
        target = ToolRuntime(target, tool)
    fixed = with_fixed(original, options.fix)
    if isinstance(here, OrtRuntime) and any(random_nodes(fixed)):
        here = here.steadied()
    sizes = implied_sizes(fixed)
    fewer = None
    if vocabulary is not None:
        cut = _with_tokens(fixed, here, vocabulary, path, options, sizes)
        fixed, fewer = cut.model, cut.fewer
    tokens = None if fewer is None else fewer.tokens
    read = partial(open_calibration, path=path, options=options, sizes=sizes, tokens=tokens)

    def sample(specs: Sequence[TensorSpec]) -> Feed:
        return next(iter(read(specs).rebatch(_SAMPLE)))

    again = isinstance(options.calib, str | PathLike | None)  # what is no file may give its data once only
    caches = changing(fixed, name) if options.change_caches else None
    front = find_front(here, fixed if caches is None else caches.inner(fixed), options.cut)
    front = replace(front, caches=caches)
    shaped = declare_shapes(lambda: here, front.model, sample if again else None)
    return Inputs(
        front, shaped, find_free_batch(here, shaped, read), name, path, here, target, sizes, fewer, tool
    )


def _with_tokens(
    model: ir.Model,
    runtime: Runtime,
    vocabulary: str,
    path: Path | None,
    options: SearchOptions,
    sizes: Mapping[str, int],
) -> Reduced:
    asked = [options, *([] if options.eval is None else [replace(options, calib=options.eval)])]
    read = [partial(open_calibration, path=path, options=one, sizes=sizes) for one in asked]
    file = tokenizer_beside(options.tokenizer, options.calib, path)
    configs = [] if path is None else configs_beside(path)
    named_ones = {one for config in configs for one in named_tokens(read_config(config))}
    return reduced(model, runtime, vocabulary, read, file, named_ones)


def open_calibration(
    specs: Sequence[TensorSpec],
    path: Path | None,
    options: SearchOptions,
    sizes: Mapping[str, int] | None = None,
    tokens: Tokens | None = None,
) -> Source:
    """The calibration data.

    Args:
        specs: inputs that it is for.
        path: of the model.
        options: about data.
        sizes: values of named free sizes of the inputs.
        tokens: that stay; the data has the ids of before.

    Raises:
        DataError, OptionError: there is none, or it does not fit.
    """
    source = open_source(
        calibration_of(options.calib, path),
        specs,
        batch_size=MOST_SAMPLES,
        labels_key=options.labels,
        seed=options.seed,
        preprocess=options.preprocess,
        memory=options.memory,
        without=fixed_names(options.fix),
        sizes=sizes,
        text=options.text,
    )
    return source if tokens is None else TokenSource(source, tokens)


def check_fixed_batch(inputs: Inputs, options: SearchOptions) -> None:
    """Refuse to time a model with a fixed batch at another one.

    Raises:
        OptionError: that is asked for.
    """
    if inputs.batch is not None and options.batch not in (1, inputs.samples):
        raise OptionError(
            f"{named('batch')} {options.batch}: the model cannot be timed so, it takes batches of "
            f"{inputs.samples}: leave out {named('batch')}"
        )
