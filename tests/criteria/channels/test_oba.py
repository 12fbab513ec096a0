"""Optimal Brain Apoptosis of channels: what goes with one, summed with signs."""

from __future__ import annotations

import nets
import numpy as np
from channel_helpers import named, opened
from product_chain import chain, sensitivities, terms

from obs_onnx.criteria.channels import CRITERIA


def test_channels_sum_with_signs_what_goes_with_them(make_proto) -> None:
    proto, x = chain(make_proto), nets.data(0, 24, 7)
    _, coupling, _, evidence = opened(proto, x)
    for kind in ("oba", "oba-second", "oba-paper"):
        of = terms(sensitivities(proto, x), kind)
        expected = np.abs(of["w1"].sum(0) + of["w2"].sum(1))
        found = CRITERIA[kind](evidence, named(coupling, "w1[1]"))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-8)
