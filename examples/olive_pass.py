"""A pass of Microsoft Olive that prunes ONNX models.

    pip install 'obs-onnx[cpu]' olive-ai
    python examples/olive_pass.py model.onnx calib.npz out/

In a workflow of Olive it stands after OnnxConversion and before OnnxQuantization.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam

import obs_onnx


class ObsOnnxPruning(Pass):
    """Removes channels, heads and hidden units, and refits the others."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "calib": PassConfigParam(
                type_=str, required=True, description="Data, see obs-onnx's docs/data.md."
            ),
            "targets": PassConfigParam(
                type_=dict, default_value={"macs": 0.5}, description="What must hold."
            ),
            "options": PassConfigParam(type_=dict, default_value={}, description="Of obs_onnx.prune."),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        path = Path(output_model_path)
        path = path if path.suffix == ".onnx" else path / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        given: Any = config
        result = obs_onnx.prune(
            model.model_path, path, calib=given.calib, targets=given.targets, **(given.options or {})
        )
        if not result.report.met:
            raise RuntimeError(f"obs-onnx: {result.report.missed[0]}")
        return ONNXModelHandler(str(path.parent), onnx_file_name=path.name)


def main(model: str, calib: str, output: str) -> ONNXModelHandler:
    """Run the pass alone."""
    from olive.passes.olive_pass import create_pass_from_dict

    pruning = create_pass_from_dict(
        ObsOnnxPruning, {"calib": calib, "targets": {"macs": 0.6}}, disable_search=True
    )
    found = pruning.run(ONNXModelHandler(model), output)
    assert isinstance(found, ONNXModelHandler)
    return found


if __name__ == "__main__":
    print(main(*sys.argv[1:]).model_path)
