"""onnxruntime-training: artifacts for training on devices, and the run of them.

The package ended at 1.19.2, which reads opset 21 and IR version 10 at most. Its ``__init__`` imports torch
for parts that are not needed here; what is needed is imported without running it.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from obs_onnx.data.feeds import Feed
from obs_onnx.io.onnx_file import serialize
from obs_onnx.passes.autodiff.optimizers import FOOF, SGD, Adam, AdamW, Optimizer
from obs_onnx.passes.canonical.plainer.elementary import Elementary
from obs_onnx.passes.errors import GradientError, MissingRuntimeError, ModelError, OptionError
from obs_onnx.passes.shapes.infer_shapes import InferShapes
from obs_onnx.runtimes.onnxruntime import OrtRuntime, import_onnxruntime
from obs_onnx.training.engines.registry import TRAINERS

__all__ = [
    "CHECKPOINT",
    "EVALUATION",
    "FILES",
    "TRAINING",
    "UPDATE",
    "Training",
    "fitted",
    "readable",
    "write_artifacts",
]

TRAINING, EVALUATION = "training_model.onnx", "eval_model.onnx"
UPDATE, CHECKPOINT = "optimizer_model.onnx", "checkpoint"
FILES = (TRAINING, EVALUATION, UPDATE, CHECKPOINT)

_EXTRA = TRAINERS["ort-training"].extra
_NEWEST_OPSET, _NEWEST_IR = 21, 10
_LACKING = {SGD: "SGD with momentum or decay", Adam: "Adam with decay in the gradient", FOOF: "FOOF"}


@dataclass(frozen=True)
class _Package:
    """What is used of the package."""

    artifacts: Any
    onnxblock: Any
    api: Any


@functools.cache
def _package() -> _Package:
    """The package.

    Raises:
        MissingRuntimeError: it is not installed.
    """
    import_onnxruntime()  # errors only on stderr
    try:
        import onnxruntime
        from onnxruntime.capi._pybind_state import GradientGraphBuilder  # noqa: F401

        with _without_init(Path(onnxruntime.__file__).parent):
            from onnxruntime.training import api, artifacts, onnxblock
    except ImportError as error:
        raise MissingRuntimeError(
            f"onnxruntime-training is not installed: install obs-onnx[{_EXTRA}] in an environment of its own "
            "(Python 3.12 at most), since it replaces onnxruntime"
        ) from error
    # it deletes temp.onnx in the working folder, the user's own one as well; only models by path write it
    if "__del__" in vars(onnxblock.Block):
        del onnxblock.Block.__del__
    return _Package(artifacts, onnxblock, api)


@contextmanager
def _without_init(folder: Path) -> Iterator[None]:
    """``onnxruntime.training`` can be imported from, without its ``__init__``."""
    name = "onnxruntime.training"
    if name in sys.modules:
        yield
        return
    package = types.ModuleType(name)
    package.__path__ = [str(folder / "training")]
    sys.modules[name] = package
    try:
        yield
    finally:
        del sys.modules[name]


def readable(model: ir.Model) -> ir.Model:
    """The model itself, or a copy with an opset and an IR version that the package reads.

    Raises:
        ModelError: the model cannot be converted.
    """
    opset = model.graph.opset_imports.get("", _NEWEST_OPSET)
    if opset <= _NEWEST_OPSET and model.ir_version <= _NEWEST_IR:
        return model
    copy = model.clone()
    if opset > _NEWEST_OPSET:
        try:
            proto = onnx.version_converter.convert_version(
                onnx.load_from_string(serialize(copy)), _NEWEST_OPSET
            )
        except Exception as error:  # the C++ side raises several kinds
            raise ModelError(
                f"onnxruntime-training reads opset {_NEWEST_OPSET} at most, and the model of opset {opset} "
                f"cannot be converted: {' '.join(str(error).split())[:300]}"
            ) from error
        copy = ir.from_proto(proto)
        InferShapes().call(copy)
    copy.ir_version = min(copy.ir_version, _NEWEST_IR)
    return copy


def fitted(model: ir.Model) -> ir.Model:
    """A copy in a form that the package reads and differentiates.

    Its gradients are wrong for Conv with ``auto_pad`` and for BatchNormalization with stored statistics, and
    its AveragePoolGrad ends the process where the batch is free: these are written out.

    Raises:
        ModelError: the model cannot be converted.
        GradientError: an operator cannot be written out.
    """
    copy = readable(model).clone()
    Elementary().call(copy)
    return copy


def write_artifacts(
    folder: Path,
    model: ir.Model,
    loss: str,
    weights: Sequence[str],
    rule: Optimizer,
    shown: Sequence[str] = (),
) -> None:
    """Write the files :data:`FILES`.

    All that is not among ``weights`` stays a constant of the graphs.

    Args:
        folder: exists, and is empty.
        model: as :func:`fitted` gives it, with ``loss`` and ``shown`` among its outputs.
        loss: name of the scalar that is minimised.
        weights: names of float32 initializers to train.
        rule: for the update; SGD without momentum, Adam or AdamW.
        shown: further outputs of the training and the evaluation model.

    Raises:
        GradientError: the package has no gradient for an operator.
        OptionError: it does not have the optimizer.
        MissingRuntimeError: it is not installed.
    """
    package = _package()
    optimizer = _block(package, rule)
    try:
        with _quiet():
            package.artifacts.generate_artifacts(
                onnx.load_from_string(serialize(model)),
                requires_grad=list(weights),
                loss_input_names=[loss],
                additional_output_names=list(shown) or None,
                optimizer=optimizer,
                artifact_directory=folder,
            )
    except Exception as error:  # the C++ side raises several kinds
        raise GradientError(
            f"onnxruntime-training cannot differentiate the model: {_reason(error)}; the trainer graph may"
        ) from error
    _adapt_update(folder / UPDATE)


def _block(package: _Package, rule: Optimizer) -> Any:
    """The optimizer as the package has it.

    Raises:
        OptionError: it lacks it.
    """
    blocks = package.onnxblock.optim
    if isinstance(rule, SGD) and not rule.momentum and not rule.decay:
        return blocks.SGD()
    if isinstance(rule, Adam) and (isinstance(rule, AdamW) or not rule.decay):
        return blocks.AdamW(betas=(rule.b1, rule.b2), eps=rule.eps, weight_decay=rule.decay)
    raise OptionError(
        f"onnxruntime-training has no {_LACKING[type(rule)]}: use adamw, adam without decay or sgd with "
        "momentum 0 and without decay, or the trainer graph"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on stderr: the package logs every transformation of the graph there, whatever the severity."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _reason(error: BaseException) -> str:
    """The message without the place in the package's sources."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]  # the place alone may be long
    tail = re.sub(r"^/\S+:\d+ .*?(was false\.|\[ONNXRuntimeError\] : \d+ : \w+ :) *", "", line)
    return tail or "a node lacks an input that the gradient needs"


def _adapt_update(path: Path) -> None:
    """Set the IR version that the package reads, and the order of decay and step as published."""
    model = onnx.load(path)
    model.ir_version = _NEWEST_IR
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "adam_mode":
                attribute.i = 0
    onnx.save(model, path)


class Training:
    """Module, optimizer and weights of artifacts.

    Args:
        runtime: whose threads and options are used; on the CPU.
        folder: with the files :data:`FILES`; not needed any more afterwards.
        evaluated: load the evaluation model, too.

    Raises:
        ModelError: the package cannot load them.
        OptionError: the runtime has another execution provider.
        MissingRuntimeError: the package is not installed.
    """

    def __init__(self, runtime: OrtRuntime, folder: Path, evaluated: bool = True) -> None:
        if runtime.provider != "CPUExecutionProvider":
            raise OptionError(f"onnxruntime-training runs on the CPU here, not on {runtime.provider}")
        self._api, options = _package().api, runtime._options(None)
        try:
            self._state = self._api.CheckpointState.load_checkpoint(folder / CHECKPOINT)
            self._module = self._api.Module(
                folder / TRAINING,
                self._state,
                folder / EVALUATION if evaluated else None,
                session_options=options,
            )
            self._optimizer = self._api.Optimizer(folder / UPDATE, self._module)
        except Exception as error:  # the C++ side raises several kinds
            raise ModelError(f"onnxruntime-training cannot load its artifacts: {_reason(error)}") from error
        self._inputs = list(self._module.input_names())
        self._outputs = list(self._module.output_names())

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs of the training model that are fed: data and targets."""
        return tuple(self._inputs)

    def gradients(self, feed: Mapping[str, NDArray[Any]]) -> Feed:
        """Forward and backward pass; the outputs. The gradients of the last call are forgotten.

        Raises:
            ModelError: it fails.
        """
        self._module.train()
        self._module.lazy_reset_grad()
        return self._run(feed)

    def update(self, rate: float) -> None:
        """Move the weights by the gradients.

        Raises:
            ModelError: it fails.
        """
        try:
            self._optimizer.set_learning_rate(rate)
            self._optimizer.step()
        except Exception as error:
            raise ModelError(f"onnxruntime-training cannot update weights: {_reason(error)}") from error

    def evaluate(self, feed: Mapping[str, NDArray[Any]]) -> Feed:
        """The outputs of the evaluation model.

        Raises:
            ModelError: it fails.
        """
        self._module.eval()
        return self._run(feed)

    def gradient(self, name: str) -> NDArray[Any]:
        """Of one weight, after :meth:`gradients`."""
        return np.array(self._state.parameters[name].grad)

    def weight(self, name: str) -> NDArray[Any]:
        """A copy."""
        return np.array(self._state.parameters[name].data)

    def set_weight(self, name: str, array: NDArray[Any]) -> None:
        """Give a weight other values of the same shape."""
        self._state.parameters[name] = np.ascontiguousarray(array)

    def save(self, path: Path) -> None:
        """Write a checkpoint with the state of the optimizer."""
        self._api.CheckpointState.save_checkpoint(self._state, path, include_optimizer_state=True)

    def _run(self, feed: Mapping[str, NDArray[Any]]) -> Feed:
        arrays = [np.asarray(feed[name], order="C") for name in self._inputs]
        try:
            found = self._module(*arrays)
        except Exception as error:
            raise ModelError(f"onnxruntime-training cannot run a step: {_reason(error)}") from error
        values = found if isinstance(found, tuple) else (found,)
        return dict(zip(self._outputs, values, strict=True))
