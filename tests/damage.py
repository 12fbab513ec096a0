"""Damaged models, archives, arrays, folders of images and command lines, each the same for the same number.

A case is what is handed to the command line: files in a folder, and arguments. Models are small graphs of
:mod:`random_graphs` and a few by hand, changed in their bytes or in fields of their messages; archives and
arrays are changed in their bytes, or lie about shapes and types; options get values of other kinds.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
from command_line import commands
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from nets import build_model
from random_graphs import BUILDERS, SIZE, build

__all__ = ["Case", "case"]

Rng = np.random.Generator

NAMES = (
    "",
    "\x1b]0;x\x07",
    "[red]x[/red]",
    "a\nb",
    "../../x",
    "n" * 300,
    "\u202ex",
    "x",
    "y",
    "$x_1$",
    "\x00",
)
NUMBERS = (-1, 0, 1, 2, 3, 7, 255, -(2**31), 2**31 - 1, 2**31, 2**40, 2**60, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e30, 1e-30)
WORDS = (
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "1e308",
    "99999999999999",
    "x" * 5000,
    "\x1b[2J",
    "a=b",
    "=",
    "0.5",
    "%",
    "..",
)
OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas()})


@dataclass(frozen=True)
class Case:
    """One call of the command line.

    Attributes:
        kind: what is damaged.
        arguments: of the command line.
    """

    kind: str
    arguments: tuple[str, ...]


def case(number: int, folder: Path) -> Case:
    """Case ``number``; its files are written into ``folder``."""
    rng = np.random.default_rng(number)
    kinds = list(KINDS)
    kind = kinds[int(rng.choice(len(kinds), p=[share for _, share in KINDS.values()]))]
    return Case(kind, tuple(map(str, KINDS[kind][0](rng, folder))))


def pick(rng: Rng, options: Sequence[Any]) -> Any:
    """One of ``options``."""
    return options[int(rng.integers(len(options)))]


# models


def whole_model(rng: Rng) -> onnx.ModelProto:
    """A model that is fine, with the input x of shape (N, 3, 5, 5)."""
    if rng.random() < 0.3:
        return build_model(*pick(rng, TEXTS))
    names = sorted(BUILDERS)
    steps = [
        (pick(rng, names), int(rng.integers(3)), int(rng.integers(1000))) for _ in range(rng.integers(1, 6))
    ]
    return build(steps, opset=int(pick(rng, (13, 18, 21))))


HEAD = "g (float[N, 3, 5, 5] x) => (float[N, 4] y)"
W = {
    "w": np.random.default_rng(0).standard_normal((6, 3, 1, 1)).astype(np.float32),
    "v": np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32),
}
TEXTS = (
    (
        HEAD
        + """{
            h = Conv(x, w)  m = GlobalAveragePool(h)  s = Shape(m)  k = Constant<value_ints=[0, 2]>()
            n = Gather(s, k)  i = Constant<value_int=0>()  one = Gather<axis=0>(n, i)
            l = Constant<value_ints=[-1]>()  u = Unsqueeze(one, z)  t = Concat<axis=0>(u, l)
            f = Reshape(m, t)  y = MatMul(f, v)
        }""",
        {**W, "z": np.array([0])},
    ),
    (
        HEAD
        + """{
            h = Conv(x, w)  f = GlobalAveragePool(h)  g = Flatten(f)  r = MatMul(g, v)
            c = Constant<value = bool {1}>()
            y = If(c)<
                then_branch = t () => (float[N, 4] a) { a = Relu(r) },
                else_branch = e () => (float[N, 4] b) { b = Neg(r) }
            >
        }""",
        W,
    ),
    (
        HEAD
        + """{
            h = Conv(x, w)  f = GlobalAveragePool(h)  g = Flatten(f)  r = MatMul(g, v)
            n = Constant<value_int=3>()
            c = Constant<value = bool {1}>()
            y = Loop(n, c, r)<body = b (int64 i, bool k, float[N, 4] p) => (bool k2, float[N, 4] q) {
                k2 = Identity(k)  q = Relu(p)
            }>
        }""",
        W,
    ),
    (
        """<ir_version: 9, opset_import: ["" : 18, "own" : 1]>
        """
        + HEAD
        + """{ h = Conv(x, w)  f = own.twice(h)  p = GlobalAveragePool(f)  q = Flatten(p)  y = MatMul(q, v) }
        <domain: "own", opset_import: ["" : 18, "own" : 1]>
        twice (a) => (b) { c = own.once(a)  b = own.once(c) }
        <domain: "own", opset_import: ["" : 18]> once (a) => (b) { b = Relu(a) }""",
        W,
    ),
    (
        HEAD
        + """{
            s = Constant<value_float=0.1>()  o = Constant<value = uint8 {128}>()
            a = QuantizeLinear(x, s, o)  b = DequantizeLinear(a, s, o)
            d = DequantizeLinear(k, s)  h = Conv(b, d)
            e = Expand(j, ex)  p = Pad(h, pads)  t = Tile(p, rep)  r = Slice(t, i0, i1, ax)
            g = GlobalAveragePool(r)  f = Flatten(g)  y = Gemm(f, v, e)
        }""",
        {
            **W,
            "k": np.ones((6, 3, 1, 1), np.int8),
            "j": np.ones(1, np.float32),
            "ex": np.array([4]),
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            "rep": np.array([1, 1, 2, 1]),
            "i0": np.array([0]),
            "i1": np.array([4]),
            "ax": np.array([2]),
        },
    ),
)


def fields(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """All fields that are set, in the message and those inside it."""
    for field, value in message.ListFields():
        yield message, field
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for one in [value] if isinstance(value, Message) else value:
                yield from fields(one)


def edited(rng: Rng, model: onnx.ModelProto) -> None:
    """Change one field somewhere."""
    found = list(fields(model))
    names = sorted({getattr(m, f.name) for m, f in found if f.name in ("name", "op_type")} | set(NAMES))
    by_name: dict[str, list[tuple[Message, FieldDescriptor]]] = {}
    for message, field in found:
        by_name.setdefault(f"{message.DESCRIPTOR.name}.{field.name}", []).append((message, field))
    message, field = pick(rng, by_name[pick(rng, sorted(by_name))])
    value = getattr(message, field.name)
    if not isinstance(value, Message | bool | int | float | str | bytes):
        _edit_list(rng, value, field, names)
    elif field.type == FieldDescriptor.TYPE_MESSAGE or rng.random() < 0.1:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _other(rng, value, field, names))


def _edit_list(rng: Rng, items: Any, field: FieldDescriptor, names: Sequence[str]) -> None:
    index, deed = int(rng.integers(len(items))), rng.random()
    if deed < 0.35:
        del items[index]
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        if deed < 0.7:
            items.add().CopyFrom(items[index])
        else:
            items[index].CopyFrom(items[int(rng.integers(len(items)))])
    elif deed < 0.5:
        items.append(_other(rng, items[index], field, names))
    else:
        items[index] = _other(rng, items[index], field, names)


def _other(rng: Rng, value: Any, field: FieldDescriptor, names: Sequence[str]) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return pick(rng, OPERATORS if field.name == "op_type" else names).replace("\udcff", "")
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes(flipped(rng, value)) if value else b"x"
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return pick(rng, FLOATS)
    if field.type == FieldDescriptor.TYPE_ENUM:
        return pick(rng, [one.number for one in field.enum_type.values])
    number = pick(rng, (*NUMBERS, value + 1, value - 1, 2 * value))
    low, high = (-(2**31), 2**31 - 1) if field.type == FieldDescriptor.TYPE_INT32 else (-(2**63), 2**63 - 1)
    if field.type == FieldDescriptor.TYPE_UINT64:
        low, high = 0, 2**64 - 1
    return min(max(int(number), low), high)


def flipped(rng: Rng, data: bytes) -> bytearray:
    """Bytes changed in place, cut, doubled or put in."""
    raw = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        place, deed = int(rng.integers(len(raw) or 1)), rng.random()
        if deed < 0.6 and raw:
            raw[place] ^= 1 << int(rng.integers(8))
        elif deed < 0.75:
            del raw[place:]
        elif deed < 0.9:
            del raw[place : place + int(rng.integers(1, 64))]
        else:
            raw[place:place] = rng.bytes(int(rng.integers(1, 64)))
    return raw


def write_model(rng: Rng, folder: Path, damage: str) -> Path:
    """A model's file, damaged in its ``bytes`` or ``fields``, or ``whole``."""
    model, path = whole_model(rng), folder / "m.onnx"
    if damage == "fields":
        for _ in range(int(rng.integers(1, 4))):
            edited(rng, model)
    data = model.SerializeToString()
    path.write_bytes(flipped(rng, data) if damage == "bytes" else data)
    return path


def write_samples(folder: Path) -> Path:
    """Calibration data that is fine."""
    path = folder / "c.npz"
    x = np.random.default_rng(0).standard_normal((24, 3, SIZE, SIZE)).astype(np.float32)
    np.savez(path, x=x)
    return path


def with_model(rng: Rng, folder: Path, model: Path) -> list[Any]:
    """Arguments of some command for a model."""
    deed, data, out = rng.random(), write_samples(folder), folder / "o.onnx"
    quick = ["-q", "--effort", "quick", "--threads", 1, "--no-latency", "-o", out]
    if deed < 0.55:
        return ["inspect", model, "--json", folder / "o.json"]
    if deed < 0.75:
        return ["prune", model, "--calib", data, "--dry-run", *quick]
    if deed < 0.85:
        return ["gradient", model, "--loss", "sum_of_squares", "-o", out]
    if deed < 0.9:
        return ["score", model, "--calib", data, "-q", "--threads", 1, "--criterion", "magnitude"]
    if deed < 0.95:
        return ["eval", model, "--data", data, "--threads", 1]
    mode = pick(rng, (("channels", "macs=0.7"), ("weights", "sparsity=0.5")))
    return ["prune", model, "--calib", data, *quick, "--mode", mode[0], "--target", mode[1]]


def model_bytes(rng: Rng, folder: Path) -> list[Any]:
    """A file with wrong bytes."""
    return with_model(rng, folder, write_model(rng, folder, "bytes"))


def model_fields(rng: Rng, folder: Path) -> list[Any]:
    """A message with wrong fields."""
    return with_model(rng, folder, write_model(rng, folder, "fields"))


# data


def with_data(rng: Rng, folder: Path, data: object) -> list[Any]:
    """Arguments of some command for data."""
    model = write_model(np.random.default_rng(int(rng.integers(8))), folder, "whole")
    if rng.random() < 0.5:
        return ["eval", model, "--data", data, "--threads", 1]
    quick = ["-q", "--effort", "quick", "--threads", 1, "--no-latency", "-o", folder / "o.onnx"]
    return ["prune", model, "--calib", data, "--dry-run", *quick]


def archive(rng: Rng, folder: Path) -> list[Any]:
    """An npz file with wrong bytes, or with members that lie."""
    path, x = folder / "d.npz", rng.standard_normal((24, 3, SIZE, SIZE)).astype(np.float32)
    if rng.random() < 0.5:
        (np.savez if rng.random() < 0.5 else np.savez_compressed)(path, x=x)
        path.write_bytes(flipped(rng, path.read_bytes()))
        return with_data(rng, folder, path)
    shape = [int(pick(rng, (*NUMBERS, 24, 3, 5))) if rng.random() < 0.3 else n for n in x.shape]
    kind = pick(rng, ("<f4", "<f4", "|O", "<U9", "<f8", "|V2000000000", "<c8", "x", "<i8"))
    header = {"descr": kind, "fortran_order": bool(rng.random() < 0.2), "shape": tuple(shape)}
    text = pick(rng, (repr(header), repr(header), "(" * 9000, "{", "", repr(header) + "\x00")).encode(
        "latin1"
    )
    text += b" " * ((64 - (len(text) + 11) % 64) % 64) + b"\n"
    method = pick(rng, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(path, "w", method) as file:
        magic = b"\x93NUMPY" + bytes(pick(rng, ((1, 0), (1, 0), (2, 0), (9, 9))))
        name = pick(rng, ("x.npy", "x.npy", "labels.npy", "../x.npy", "\x1b[2J.npy"))
        file.writestr(name, magic + struct.pack("<H", len(text)) + text + x.tobytes())
    return with_data(rng, folder, path)


def array(rng: Rng, folder: Path) -> list[Any]:
    """An npy file with wrong bytes, by itself or in a folder."""
    buffer = io.BytesIO()
    np.save(buffer, rng.standard_normal((24, 3, SIZE, SIZE)).astype(np.float32))
    inner = folder / "arrays"
    inner.mkdir(exist_ok=True)
    (inner / "x.npy").write_bytes(flipped(rng, buffer.getvalue()))
    return with_data(rng, folder, inner if rng.random() < 0.5 else inner / "x.npy")


def images(rng: Rng, folder: Path) -> list[Any]:
    """A folder of images with a wrong preprocess.json, or wrong images."""
    from PIL import Image

    inner = folder / "images"
    inner.mkdir(exist_ok=True)
    for number in range(4):
        Image.fromarray(rng.integers(0, 255, (6, 7, 3), np.uint8)).save(inner / f"{number}.png")
    how: Any = {"resize": 5, "crop": 5, "mean": [0.5], "std": [0.2, 0.2, 0.2], "order": "RGB"}
    keys = (*how, "scale", "layout", "interpolation", "\x1b[2J")
    for _ in range(int(rng.integers(1, 3))):
        how[pick(rng, keys)] = _json_value(rng, 0)
    text = json.dumps(how)
    deed = rng.random()
    if deed < 0.2:
        text = pick(rng, ("[" * 100_000, "", "[]", "null", '{"resize":1e999}', "\ufeff{}", '{"a":' * 50_000))
    elif deed < 0.4:
        text = flipped(rng, text.encode()).decode("latin1")
    if rng.random() < 0.2:
        first = inner / "0.png"
        first.write_bytes(flipped(rng, first.read_bytes()))
    (inner / "preprocess.json").write_text(text, encoding="utf-8")
    return with_data(rng, folder, inner)


def _json_value(rng: Rng, depth: int) -> Any:
    if rng.random() < 0.3 and depth < 3:
        return [_json_value(rng, depth + 1) for _ in range(int(rng.integers(4)))]
    return pick(rng, (*NUMBERS, *FLOATS, *NAMES, None, True, {}, {"a": 1}, 10**400, 100_000_000, 5, 5.5))


# options


def options(rng: Rng, folder: Path) -> list[Any]:
    """A command with options of wrong values."""
    model = write_model(np.random.default_rng(int(rng.integers(8))), folder, "whole")
    data = write_samples(folder)
    command = pick(rng, ("inspect", "prune", "gradient", "score", "eval", "bench"))
    given: dict[str, list[Any]] = {
        "inspect": [],
        "prune": ["--calib", data, "--dry-run", "-q", "--effort", "quick", "-o", folder / "o.onnx"],
        "gradient": ["-o", folder / "o.onnx"],
        "score": ["--calib", data, "--criterion", "magnitude", "-q"],
        "eval": ["--data", data],
        "bench": ["--seconds", "0.05"],
    }
    line: list[Any] = [
        command,
        model,
        *given[command],
        *([] if command in ("inspect", "gradient") else ["--threads", 1]),
    ]
    known = [one for one in commands()[command].params if isinstance(one, click.Option)]
    for _ in range(int(rng.integers(1, 4))):
        option = pick(rng, [one for one in known if "--help" not in one.opts and one.name not in COSTLY])
        line.append(pick(rng, option.opts))
        if not option.is_flag:
            line.append(_value(rng, option))
    if rng.random() < 0.1:
        line.append(pick(rng, WORDS))
    return line


COSTLY = (
    "verbose",
    "threads",
    "seconds",
    "finetune",
    "effort",
    "dry_run",
    "output",
    "json_path",
    "html_path",
    "plot_path",
)


def _value(rng: Rng, option: click.Option) -> str:
    if isinstance(option.type, click.Choice) and rng.random() < 0.5:
        return str(pick(rng, list(option.type.choices)))
    return str(
        pick(
            rng,
            (*WORDS, *NUMBERS, "macs=nan", "sparsity=2", "a*=inf", "2:4", "random:9", "random:-1", "1e400"),
        )
    )


Make = Callable[[Rng, Path], list[Any]]
KINDS: dict[str, tuple[Make, float]] = {
    "bytes of a model": (model_bytes, 0.2),
    "fields of a model": (model_fields, 0.45),
    "archive": (archive, 0.1),
    "array": (array, 0.05),
    "images": (images, 0.1),
    "options": (options, 0.1),
}
