"""Layers of graphs in ONNX text form."""

from __future__ import annotations

import numpy as np
import pytest

from obs_onnx.passes.canonical.canonicalize import canonicalize
from obs_onnx.passes.layers.find_layers import find_layers


@pytest.fixture
def find(make_model, rng):
    """Layers and frozen nodes of a graph body; shapes in ``weights`` are filled with random numbers."""

    def find(text: str, weights: dict[str, object], **options: int):
        arrays = {
            name: rng.normal(size=w).astype(np.float32) if isinstance(w, tuple) else w
            for name, w in weights.items()
        }
        return find_layers(canonicalize(make_model(text, arrays, **options)))

    return find
