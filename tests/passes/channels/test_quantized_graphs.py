"""Removal equals silence on random networks in every format of onnxruntime's quantization."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from quantized_graphs import FORMATS, outcome

pytestmark = pytest.mark.filterwarnings("ignore")

CASES = int(os.environ.get("OBS_ONNX_EXAMPLES", "60"))  # hundreds find rare cases
APART = ("blocks", "QDQ u16", "QDQ s16")
"""Formats whose sums onnxruntime makes of fractions, in an order of its own."""


@pytest.mark.parametrize("form", FORMATS)
def test_channels_go_from_every_format(form: str, tmp_path: Path) -> None:
    number = list(FORMATS).index(form)
    for seed in range(number, CASES, len(FORMATS)):
        found = outcome(seed, form, tmp_path)
        assert found.verdict in (("equal", "rounded") if form.startswith(APART) else ("equal",)), found
        assert found.groups
