"""What both exporters of PyTorch write by default, with a fixed batch of one and with a free one."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import prune_and_compare, run, signature

import obs_onnx

torch: Any = pytest.importorskip("torch", reason="needs the package torch")
pytest.importorskip("onnxscript", reason="needs the package onnxscript, which torch exports with")

nn = torch.nn
F = nn.functional


class Residual(nn.Module):
    """Convolutions with batch normalization around a shortcut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(16, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.SiLU(),
            nn.Conv2d(24, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
        )
        self.depthwise = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.body(x))
        return self.head(self.depthwise(x).mean((2, 3)))


class Transformer(nn.Module):
    """Token and position embeddings, an encoder, a classifier on the first token."""

    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 32), nn.Embedding(16, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return self.head(self.encoder(x)[:, 0])


class Attention(nn.Module):
    """Scaled dot-product attention with one projection for all three, as vision models have it."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.norm, self.qkv, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, 32))
        return self.head((x + self.mlp(x)).mean(1))


class Recurrent(nn.Module):
    """An LSTM in two directions and a GRU over a sequence of features."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 24, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(48, 16, batch_first=True)
        self.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x):
        return self.head(self.gru(self.lstm(x)[0])[0][:, -1])


class Two(nn.Module):
    """Features of an image and of a table meet; what comes out has names."""

    def __init__(self):
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.table = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.Dropout(), nn.ReLU())
        self.scores, self.box = nn.Linear(40, 5), nn.Linear(40, 4)

    def forward(self, image, table):
        x = torch.cat([self.image(image).mean((2, 3)), self.table(table)], 1)
        return {"scores": self.scores(x), "box": self.box(x)}


class Upsampling(nn.Module):
    """A U: down, up by resizing and by transposed convolution, joined."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 24, 3, stride=2, padding=1)
        self.up, self.turn = nn.ConvTranspose2d(24, 16, 2, stride=2), nn.Conv2d(24, 16, 1)
        self.group, self.last = nn.GroupNorm(4, 48), nn.Conv2d(48, 2, 3, padding=1)

    def forward(self, x):
        a = torch.relu(self.one(x))
        b = F.leaky_relu(self.two(a))
        c = F.interpolate(self.turn(b), scale_factor=2.0, mode="bilinear")
        return self.last(self.group(torch.cat([a, self.up(b), c], 1)))


NETS: dict[str, tuple[type, tuple[tuple[int, ...], ...]]] = {
    "residual": (Residual, ((3, 16, 16),)),
    "transformer": (Transformer, ((9,),)),
    "attention": (Attention, ((3, 16, 16),)),
    "recurrent": (Recurrent, ((7, 6),)),
    "two inputs": (Two, ((3, 12, 12), (6,))),
    "upsampling": (Upsampling, ((3, 16, 16),)),
}
"""Name -> a net, and the shapes of one sample of what it takes; the transformer takes tokens."""


def samples(name: str, count: int) -> list[Any]:
    generator = torch.Generator().manual_seed(count)
    if name == "transformer":
        return [torch.randint(0, 50, (count, 9), generator=generator)]
    return [torch.randn(count, *shape, generator=generator) for shape in NETS[name][1]]


def trained(name: str) -> Any:
    """A net whose batch normalization has seen something."""
    torch.manual_seed(0)
    net = NETS[name][0]()
    net.train()
    for _ in range(3):
        net(*(x * 2 + 1 if x.is_floating_point() else x for x in samples(name, 16)))
    return net.eval()


def export(net: Any, inputs: list[Any], path: Path, dynamo: bool, free: bool) -> None:
    options: dict[str, Any] = {}
    if free and dynamo:
        options["dynamic_shapes"] = tuple({0: torch.export.Dim("batch")} for _ in inputs)
    elif free:
        options["input_names"] = [f"in{number}" for number in range(len(inputs))]
        options["dynamic_axes"] = {each: {0: "batch"} for each in options["input_names"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, tuple(inputs), str(path), dynamo=dynamo, **options)


@pytest.mark.parametrize("free", [False, True], ids=["fixed batch", "free batch"])
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("name", NETS)
def test_removal_is_exact(tmp_path: Path, name: str, dynamo: bool, free: bool) -> None:
    path = tmp_path / "m.onnx"
    export(trained(name), samples(name, 2 if free else 1), path, dynamo, free)
    assert (tmp_path / "m.onnx.data").exists() == dynamo
    arrays = [x.numpy() for x in samples(name, 64)]
    data = {each: x for (each, _, _), x in zip(signature(path), arrays, strict=False)}
    report = prune_and_compare(path, data)
    assert report.after.parameters < 0.75 * report.before.parameters
    assert (tmp_path / "small.onnx.data").exists() == dynamo


def test_outputs_are_those_of_the_net(tmp_path: Path) -> None:
    """With refitting, the default, the outputs of the smaller model stay near those of the net itself."""
    net = trained("residual")
    export(net, samples("residual", 2), tmp_path / "m.onnx", dynamo=True, free=True)
    x = samples("residual", 64)[0]
    result = obs_onnx.prune(
        tmp_path / "m.onnx",
        tmp_path / "m.pruned.onnx",
        calib={"x": x.numpy()},
        targets={"macs": 0.8},
        latency=False,
        effort="quick",
    )
    assert result.report.met
    (found,) = run(tmp_path / "m.pruned.onnx", {"x": x.numpy()})
    with torch.no_grad():
        wanted = net(x).numpy()
    assert np.linalg.norm(found - wanted) < 0.2 * np.linalg.norm(wanted)
