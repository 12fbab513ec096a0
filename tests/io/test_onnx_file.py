from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_files import WEIGHTS, fails, store

from obs_onnx.io import onnx_file
from obs_onnx.io.onnx_file import from_proto, load_model, save_model, serialize
from obs_onnx.passes.errors import ModelError, OptionError


@pytest.fixture
def external(proto, tmp_path):
    """Path of a model whose weight lies in ``weights.bin`` at offset 64."""
    weight = proto.graph.initializer[0]
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64 + weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "64"), ("length", "128")):
        weight.external_data.add(key=key, value=value)
    return store(proto, tmp_path)


def edit(path: Path, change) -> None:
    proto = onnx.load(path, load_external_data=False)
    change(proto)
    path.write_bytes(proto.SerializeToString())


def set_entry(key: str, value: str):
    def change(proto: onnx.ModelProto) -> None:
        for entry in proto.graph.initializer[0].external_data:
            if entry.key == key:
                entry.value = value

    return change


class TestExternalData:
    def test_is_mapped(self, external):
        weight = load_model(external).graph.initializers["w"].const_value
        assert isinstance(weight, ir.ExternalTensor)
        np.testing.assert_array_equal(weight.numpy(), WEIGHTS["w"])
        assert weight.raw is not None

    def test_relative_path(self, external, monkeypatch):
        monkeypatch.chdir(external.parent)
        model = load_model("m.onnx")
        monkeypatch.chdir("/")
        np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), WEIGHTS["w"])

    def test_check_sums(self, external):
        digest = hashlib.sha1((external.parent / "weights.bin").read_bytes()).hexdigest()

        def add(proto: onnx.ModelProto) -> None:
            proto.graph.initializer[0].external_data.add(key="checksum", value=digest.upper())

        edit(external, add)
        load_model(external)
        with (external.parent / "weights.bin").open("r+b") as file:
            file.seek(100)
            file.write(b"\x7f")
        fails(external, "'weights.bin'", "'w'", "check sum")

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("location", "weights\0.bin", "no file can have"),
            ("location", "../weights.bin", "outside"),
            ("location", "/etc/passwd", "outside"),
            ("location", "", "outside"),
            ("location", ".", "outside"),
            ("location", "n" * 300, "missing"),
            ("offset", "-1", "declared"),
            ("offset", "64.5", "offset"),
            ("offset", str(2**64), "truncated"),
            ("offset", "9" * 5000, "offset"),
            ("length", "0", "0 are declared"),
            ("length", "-128", "declared"),
            ("length", str(2**63), "declared"),
        ],
    )
    def test_places_that_cannot_be(self, external, key, value, words):
        edit(external, set_entry(key, value))
        fails(external, "'w'", words)

    def test_missing(self, external):
        (external.parent / "weights.bin").unlink()
        fails(external, "'weights.bin'", "'w'", "missing")

    def test_shorter_than_needed(self, external):
        with open(external.parent / "weights.bin", "r+b") as file:
            file.truncate(100)
        fails(external, "truncated", "192 bytes", "100")

    def test_declared_length_contradicts_shape(self, external):
        edit(external, set_entry("length", "64"))
        fails(external, "128 bytes", "64")

    def test_offset_beyond_the_end(self, external):
        edit(external, set_entry("offset", str(2**62)))
        fails(external, "truncated")

    @pytest.mark.parametrize("offset", ["-1", "x"])
    def test_senseless_offset(self, external, offset):
        edit(external, set_entry("offset", offset))
        fails(external, "broken")

    def test_huge_shape(self, external):
        def change(proto: onnx.ModelProto) -> None:
            proto.graph.initializer[0].dims[0] = 2**50
            del proto.graph.initializer[0].external_data[2]

        edit(external, change)
        fails(external, "truncated")

    @pytest.mark.parametrize("kind", ["parent", "absolute", "symlink", "none"])
    def test_outside_the_folder(self, external, tmp_path_factory, kind):
        outside = tmp_path_factory.mktemp("outside") / "secret.bin"
        outside.write_bytes(b"\0" * 4096)
        inside = external.parent / "link.bin"
        location = {
            "parent": os.path.relpath(outside, external.parent),
            "absolute": str(outside),
            "none": "",
        }.get(kind, "link.bin")
        if kind == "symlink":
            inside.symlink_to(outside)
        edit(external, set_entry("location", location))
        fails(external, "outside the folder")

    def test_symlink_inside_the_folder_is_fine(self, external):
        (external.parent / "link.bin").symlink_to(external.parent / "weights.bin")
        edit(external, set_entry("location", "link.bin"))
        np.testing.assert_array_equal(
            load_model(external).graph.initializers["w"].const_value.numpy(), WEIGHTS["w"]
        )

    def test_serialize_embeds(self, external, run_model):
        proto = onnx.load_model_from_string(serialize(load_model(external)))
        x = np.ones((2, 8), np.float32)
        np.testing.assert_allclose(run_model(proto, {"x": x})["y"], x @ WEIGHTS["w"] + 1)

    @pytest.mark.parametrize("name", ["copy.onnx", "m.onnx"])
    def test_save_writes_external_data_again(self, external, name):
        model = load_model(external)
        model.graph.initializers["w"].const_value = ir.tensor(np.zeros((1024, 4), np.float32), name="w")
        target = external.parent / name
        save_model(model.clone(), target)
        assert (external.parent / f"{name}.data").stat().st_size == 1024 * 16
        np.testing.assert_array_equal(load_model(target).graph.initializers["w"].const_value.numpy(), 0)

    def test_save_over_the_files_that_are_mapped(self, external):
        big = np.random.default_rng(0).random((1024, 4), dtype=np.float32)
        first = load_model(external)
        first.graph.initializers["w"].const_value = ir.tensor(big, name="w")
        save_model(first, external)
        second = load_model(external)
        assert isinstance(second.graph.initializers["w"].const_value, ir.ExternalTensor)
        second.graph.initializers["b"].const_value = ir.tensor(np.full(4096, 2, np.float32), name="b")
        save_model(second, external)
        np.testing.assert_array_equal(second.graph.initializers["w"].const_value.numpy(), big)
        reloaded = load_model(external).graph.initializers
        np.testing.assert_array_equal(reloaded["w"].const_value.numpy(), big)
        np.testing.assert_array_equal(reloaded["b"].const_value.numpy(), 2)


class TestSparseInitializers:
    @pytest.mark.parametrize("coordinates", [False, True])
    def test_become_dense(self, proto, tmp_path, run_model, coordinates):
        dense = np.zeros((8, 4), np.float32)
        dense[[1, 5], [2, 3]] = 3.0, -1.0
        indices = np.array([[1, 2], [5, 3]]) if coordinates else np.array([6, 23])
        sparse = helper.make_sparse_tensor(
            numpy_helper.from_array(np.array([3.0, -1.0], np.float32), "w"),
            numpy_helper.from_array(indices, "w_indices"),
            [8, 4],
        )
        del proto.graph.initializer[0]
        proto.graph.sparse_initializer.append(sparse)
        x = np.random.default_rng(0).random((3, 8), dtype=np.float32)
        model = load_model(store(proto, tmp_path))
        np.testing.assert_allclose(run_model(model, {"x": x})["y"], x @ dense + 1, rtol=1e-6)

    @pytest.mark.parametrize(("dims", "index"), [([2**40, 4], 5), ([8, 4], 32)])
    def test_broken(self, proto, tmp_path, dims, index):
        del proto.graph.initializer[0]
        sparse = helper.make_sparse_tensor(
            numpy_helper.from_array(np.ones(1, np.float32), "w"),
            numpy_helper.from_array(np.array([index]), "i"),
            dims,
        )
        proto.graph.sparse_initializer.append(sparse)
        fails(store(proto, tmp_path), "'w'")


class TestSave:
    def test_everything_survives(self, proto, tmp_path):
        source, target = store(proto, tmp_path), tmp_path / "out" / "copy.onnx"
        target.parent.mkdir()
        save_model(load_model(source), target)
        copy = onnx.load(target)
        assert os.listdir(target.parent) == ["copy.onnx"]
        assert copy.graph.input == proto.graph.input
        assert copy.graph.output == proto.graph.output
        described = [(n.op_type, n.domain, n.name, list(n.input), list(n.output)) for n in proto.graph.node]
        assert [
            (n.op_type, n.domain, n.name, list(n.input), list(n.output)) for n in copy.graph.node
        ] == described
        assert copy.graph.initializer == proto.graph.initializer
        assert copy.opset_import == proto.opset_import
        for field in ("ir_version", "producer_name", "doc_string", "model_version", "metadata_props"):
            assert getattr(copy, field) == getattr(proto, field)
        assert copy.graph.doc_string == "the graph"

    def test_same_bytes_twice(self, proto, tmp_path):
        for name in ("a.onnx", "b.onnx"):
            save_model(load_model(store(proto, tmp_path)), tmp_path / name)
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()

    def test_nothing_changes_when_writing_fails(self, proto, tmp_path, monkeypatch):
        target = store(proto, tmp_path)
        before = target.read_bytes()
        model = load_model(target)

        def full_disk(*args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full_disk)
        with pytest.raises(OptionError, match="No space left"):
            save_model(model, target)
        assert target.read_bytes() == before
        assert os.listdir(tmp_path) == ["m.onnx"]

    def test_folder_does_not_exist(self, proto, tmp_path):
        model = load_model(store(proto, tmp_path))
        with pytest.raises(OptionError, match=r"cannot write .* its folder does not exist"):
            save_model(model, tmp_path / "no" / "m.onnx")

    def test_target_is_a_folder(self, proto, tmp_path):
        with pytest.raises(OptionError, match="it is a folder"):
            save_model(load_model(store(proto, tmp_path)), tmp_path)

    def test_symbolic_link_is_kept(self, proto, tmp_path):
        target, link = store(proto, tmp_path), tmp_path / "link.onnx"
        link.symlink_to(target)
        save_model(load_model(target), link)
        assert link.is_symlink()
        assert load_model(target).graph.name == "g"


def test_unsorted_nodes_are_sorted(make_proto, run_model):
    proto = make_proto("g (float[4] x) => (float[4] y) { y = Relu(h)  h = Neg(x) }")
    model = from_proto(proto)
    assert [node.op_type for node in model.graph] == ["Neg", "Relu"]
    x = np.array([1, -2, 3, -4], np.float32)
    np.testing.assert_array_equal(run_model(model, {"x": x})["y"], [0, 2, 0, 4])


LOOP = """g (float[N] x) => (float[N] y) {
    n = Constant<value_int=%d>()  c = Constant<value = bool {1}>()
    y = Loop(%s, %s, x)<body = b (int64 i, bool k, float[N] p) => (bool k2, float[N] q) { %s  q = Relu(p) }>
}"""


def test_a_size_of_minus_one_is_not_known(proto, tmp_path):
    for entry in (proto.graph.input[0], proto.graph.output[0]):
        entry.type.tensor_type.shape.dim[0].dim_value = -1
    model = load_model(store(proto, tmp_path))
    assert [tuple(value.shape)[1] for value in (*model.graph.inputs, *model.graph.outputs)] == [8, 4]
    assert not any(isinstance(value.shape[0], int) for value in (*model.graph.inputs, *model.graph.outputs))


@pytest.mark.parametrize("version", [0, 1, 2])
def test_formats_from_before_versions_of_operators(proto, tmp_path, version):
    proto.ir_version = version
    with pytest.raises(ModelError, match=f"version {version} of the format.*export it again"):
        load_model(store(proto, tmp_path))


@pytest.mark.parametrize("version", [0, -1, 2**40])
def test_versions_of_operators_that_cannot_be(proto, tmp_path, version):
    proto.opset_import.add(domain="com.microsoft.experimental", version=version)
    with pytest.raises(ModelError, match=f"are of version {version}"):
        load_model(store(proto, tmp_path))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("y = Relu(x, x)", "'' (Relu) has 2 inputs in place of 1"),
        ("y = Add(x)", "'' (Add) has 1 inputs in place of 2"),
        ("y, z = Split<axis=0, num_outputs=1>(x)", "'' (Split) has 2 outputs in place of 1"),
    ],
)
def test_counts_of_inputs_and_outputs(make_proto, tmp_path, body, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        load_model(store(make_proto(f"g (float[4] x) => (y) {{ {body} }}"), tmp_path))


@pytest.mark.parametrize(
    ("rounds", "limit", "start", "condition", "endless"),
    [
        (2**62, "n", "c", "k2 = Identity(k)", True),
        (2**62, "n", '""', "k2 = Identity(k)", True),
        (3, '""', "c", "j = Identity(k)  k2 = Identity(j)", True),
        (3, "n", "c", "k2 = Identity(k)", False),
        (2**62, "n", "c", "l = Constant<value_int=5>()  k2 = Less(i, l)", False),
    ],
)
def test_loops_without_an_end(make_proto, tmp_path, rounds, limit, start, condition, endless):
    path = store(make_proto(LOOP % (rounds, limit, start, condition)), tmp_path)
    if endless:
        with pytest.raises(ModelError, match=r"\(Loop\) ends only after more than"):
            load_model(path)
    else:
        load_model(path)


def test_a_name_with_a_null_character(tmp_path):
    with pytest.raises(ModelError):
        load_model(f"{tmp_path}/a\0b.onnx")


def test_an_output_without_a_type_gets_the_one_that_follows(proto, tmp_path):
    proto.graph.output[0].ClearField("type")
    model = load_model(store(proto, tmp_path))
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT
    onnx.checker.check_model(ir.to_proto(model))


@pytest.mark.parametrize("name", ["n", "c"])
def test_loops_are_steered_by_single_numbers(make_proto, tmp_path, name):
    body = (LOOP % (3, "n", "c", "k2 = Identity(k)")).replace(f"{name} = Constant", "unused = Constant")
    path = store(make_proto(body, {name: np.ones(0, np.int64 if name == "n" else bool)}), tmp_path)
    with pytest.raises(ModelError, match=f"'{name}', which steers node '' .Loop., is no single number"):
        load_model(path)


def test_the_size_of_a_large_file_is_known_without_it(make_model, tmp_path, monkeypatch) -> None:
    text = "g (float[N,256] x) => (float[N,256] y) { h = MatMul(x, w)  y = Add(h, b) }"
    model = make_model(text, {"w": np.ones((256, 256), np.float32), "b": np.ones(256, np.float32)})
    whole = onnx_file.file_size(model)
    assert whole == len(serialize(model))
    monkeypatch.setattr(onnx_file, "_COUNTED_BYTES", 1000)
    assert abs(onnx_file.file_size(model) - whole) < 100
