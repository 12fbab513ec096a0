"""Fixtures that many tests share: small models from text, runs on onnxruntime, the outside data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import build_model, run_proto

Arrays = Mapping[str, Any]


@pytest.fixture(scope="session")
def make_proto() -> Callable[..., onnx.ModelProto]:
    """``make_proto(text, initializers, opset=, ir_version=)`` -> ModelProto."""
    return build_model


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ir.Model]:
    """``make_model(text, initializers, opset=, ir_version=)`` -> onnx_ir.Model."""

    def make(text: str, initializers: Arrays | None = None, **options: int) -> ir.Model:
        return ir.from_proto(build_model(text, initializers, **options))

    return make


@pytest.fixture(scope="session")
def run_model() -> Callable[[ir.Model | onnx.ModelProto, Arrays], dict[str, np.ndarray]]:
    """``run_model(model, feeds)`` -> outputs by name; the model must pass the checker."""

    def run(model: ir.Model | onnx.ModelProto, feeds: Arrays) -> dict[str, np.ndarray]:
        proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
        onnx.checker.check_model(proto, full_check=True)
        return run_proto(proto, feeds)

    return run


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Measured latencies go to a folder of the tests, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OBS_ONNX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded generator."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def outside_data() -> Path:
    """Folder with ``data/``, ``models/`` and ``zoo/``; the test is skipped without it."""
    folder = os.environ.get("OBS_ONNX_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs outside data: set OBS_ONNX_DATA to the folder with data/, models/ and zoo/")
    return Path(folder)
