"""Digests: equal for equal content, other ones for everything else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from nets import mlp

from obs_onnx.work.digest import digest_of


@dataclass(frozen=True)
class Pair:
    a: int
    b: object


class Side(Enum):
    LEFT = 1
    RIGHT = 2


DIFFERENT = [
    (),
    (None,),
    (0,),
    (0.0,),
    (False,),
    ("0",),
    (b"0",),
    ("a", "b"),
    (("a", "b"),),
    ("ab",),
    (["a", ["b"]],),
    ({"a": 1},),
    ({"a": 2},),
    ({"a"},),
    (Pair(1, 2),),
    (Pair(2, 1),),
    (np.zeros(4),),
    (np.zeros((2, 2)),),
    (np.zeros(4, np.float32),),
    (np.array(["a", "b"], dtype=object),),
    (np.zeros((0, 3)),),
    (np.dtype(np.float32),),
    (np.dtype(np.float16),),
    (Side.LEFT,),
    (Side.RIGHT,),
]


def test_other_content_has_another_digest() -> None:
    found = {digest_of(*parts) for parts in DIFFERENT}
    assert len(found) == len(DIFFERENT)
    assert all(len(digest) == 32 for digest in found)


def test_the_same_content_has_the_same_digest() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert digest_of({"a": 1, "b": array}) == digest_of({"b": array.copy(), "a": 1})
    assert digest_of(array.T) == digest_of(np.ascontiguousarray(array.T))
    assert digest_of({"x", "y"}) == digest_of(frozenset({"y", "x"}))
    assert digest_of(iter([1, 2])) == digest_of([1, 2])
    assert digest_of(np.float32(2)) == digest_of(np.array(2, np.float32))


def test_what_has_no_digest_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="no digest of object"):
        digest_of(object())


def test_a_model_counts_with_its_weights_wherever_they_lie(tmp_path) -> None:
    proto = mlp()
    inside = digest_of(ir.from_proto(proto))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert digest_of(ir.load(tmp_path / "m.onnx")) == inside
    content = bytearray((tmp_path / "w.bin").read_bytes())
    content[100] ^= 1
    (tmp_path / "w.bin").write_bytes(content)
    assert digest_of(ir.load(tmp_path / "m.onnx")) != inside


def test_nodes_and_sizes_of_a_model_count() -> None:
    model = ir.from_proto(mlp())
    before = digest_of(model)
    assert digest_of(model.clone()) == before
    model.graph.node(0).attributes.add(ir.AttrFloat32("alpha", 0.5))
    assert digest_of(model) != before
    assert digest_of(ir.from_proto(mlp((12, 32, 24, 6)))) != before
