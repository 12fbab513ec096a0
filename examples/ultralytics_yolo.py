"""A hook for Ultralytics: each ONNX export of a YOLO is pruned on images, and loads like any other.

pip install 'obs-onnx[cpu,images]' ultralytics
python examples/ultralytics_yolo.py yolo11n.pt images/
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obs_onnx


def pruned_export(model: Path, calib: Any, **options: Any) -> Path:
    """Prune an exported YOLO beside its file. Names of classes, stride and task stay in its metadata.

    Args:
        model: as ``YOLO.export`` wrote it.
        calib: a folder of images, or arrays.
        options: of obs_onnx.prune, which go before those that suit a detector.
    """
    small = model.with_name(f"{model.stem}-small.onnx")
    chosen = {"targets": {"macs": 0.8}, "latency": False, **options}
    if isinstance(calib, (str, Path)):
        chosen = {"preprocess": "0..1", **chosen}  # as Ultralytics feeds its networks
    print(obs_onnx.prune(model, small, calib=calib, **chosen).summary())
    return small


def hook(calib: Any, **options: Any) -> Callable[[Any], None]:
    """A callback ``on_export_end``."""

    def on_export_end(exporter: Any) -> None:
        exported = Path(exporter.file).with_suffix(".onnx")
        if exported.is_file():
            pruned_export(exported, calib, **options)

    return on_export_end


def main(weights: str, images: str) -> None:
    """Export with the hook, and load what it made."""
    from ultralytics import YOLO

    yolo = YOLO(weights)
    yolo.add_callback("on_export_end", hook(images))
    exported = Path(yolo.export(format="onnx"))
    YOLO(exported.with_name(f"{exported.stem}-small.onnx"), task="detect").predict(images)


if __name__ == "__main__":
    main(*sys.argv[1:])
