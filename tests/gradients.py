"""Gradients of graphs in ONNX text form, as onnxruntime computes them."""

from __future__ import annotations

import pytest

from obs_onnx.passes.autodiff.gradient import Gradient
from obs_onnx.passes.canonical.canonicalize import canonicalize


@pytest.fixture
def gradient_of(make_model, run_model):
    """``gradient_of(text, initializers, wrt, feeds)`` -> outputs of the graph with gradients."""

    def compute(text, initializers, wrt, feeds=None, opset=18, **options):
        model = canonicalize(make_model(text, initializers, opset=opset))
        Gradient("loss", wrt, **options).call(model)
        return run_model(model, feeds or {})

    return compute
