"""Where graphs decide."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from obs_onnx.passes.canonical.own_constants import prepare
from obs_onnx.verification.decisions import decided_outputs
