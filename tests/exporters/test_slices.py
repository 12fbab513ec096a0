"""Modules of PyTorch, exported, pruned, and cut to the same smaller form."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import run

import obs_onnx
from obs_onnx.passes.errors import DataError, ModelError

torch: Any = pytest.importorskip("torch", reason="needs the package torch")
pytest.importorskip("onnxscript", reason="needs the package onnxscript, which torch exports with")
if not hasattr(torch, "nn"):
    pytest.skip("needs the package torch", allow_module_level=True)

import obs_onnx.torch as slices  # noqa: E402

nn = torch.nn
F = nn.functional


class Block(nn.Module):
    """Two convolutions around a shortcut, as in ResNet."""

    def __init__(self, ins: int, outs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outs)
        self.downsample = None
        if stride != 1 or ins != outs:
            self.downsample = nn.Sequential(nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1))
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        x = self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


def mobile() -> Any:
    """Inverted residuals without the shortcut: pointwise, depthwise, pointwise, all with normalization."""
    layers: list[Any] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()]
    for ins, outs in ((16, 24), (24, 24)):
        wide = 3 * ins
        layers += [nn.Conv2d(ins, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()]
        layers += [nn.Conv2d(wide, outs, 1, bias=False), nn.BatchNorm2d(outs)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5))


def vgg() -> Any:
    """Flatten in front of a linear layer; biases in front of normalization."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24 * 16, 40), nn.BatchNorm1d(40), nn.ReLU(), nn.Dropout(), nn.Linear(40, 5),
    )  # fmt: skip


def mlp() -> Any:
    return nn.Sequential(
        nn.Linear(12, 40),
        nn.ReLU(),
        nn.Linear(40, 30, bias=False),
        nn.PReLU(30),
        nn.LayerNorm(30),
        nn.Linear(30, 5),
    )


class Grouped(nn.Module):
    """Grouped convolution, group normalization, instance normalization, transposed convolution, joined."""

    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.two = nn.Conv2d(16, 24, 3, padding=1, groups=4)
        self.three = nn.InstanceNorm2d(24, affine=True)
        self.down, self.bn = nn.Conv2d(24, 20, 3, 2, 1, bias=False), nn.BatchNorm2d(20)
        self.up, self.up_bn = nn.ConvTranspose2d(20, 12, 2, 2, bias=False), nn.BatchNorm2d(12)
        self.last = nn.Conv2d(36, 4, 1)

    def forward(self, x):
        a = self.three(torch.relu(self.two(torch.relu(self.norm(self.one(x))))))
        b = torch.relu(self.bn(self.down(a)))
        return self.last(torch.cat([a, torch.relu(self.up_bn(self.up(b)))], 1)).mean((2, 3))


class Encoder(nn.Module):
    """Tokens, places, torch's own encoder."""

    def __init__(self, batch_first: bool = True):
        super().__init__()
        self.tokens, self.places = nn.Embedding(50, 32), nn.Parameter(torch.randn(9, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.turn = nn.Linear(32, 4), not batch_first

    def forward(self, ids):
        x = self.tokens(ids) + self.places
        x = self.encoder(x.transpose(0, 1)).transpose(0, 1) if self.turn else self.encoder(x)
        return self.head(x.mean(1))


class Attention(nn.Module):
    """Attention as timm writes it."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, -1))


class Fused(Attention):
    """The same by the function of torch, which asks tensors for the width of heads; three projections."""

    def __init__(self, dim: int, num_heads: int):
        super().__init__(dim, num_heads)
        del self.qkv
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.num_heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ViT(nn.Module):
    def __init__(self, kind: type = Attention):
        super().__init__()
        self.patches, self.cls = nn.Conv2d(3, 32, 4, stride=4), nn.Parameter(torch.randn(1, 1, 32))
        self.pos = nn.Parameter(torch.randn(1, 17, 32))
        self.norm1, self.attn = nn.LayerNorm(32), kind(32, 4)
        self.mlp = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        x = x + self.attn(self.norm1(x))
        return self.head(self.norm(x + self.mlp(x))[:, 0])


class Twins(nn.Module):
    """One module called twice, and one parameter under two names."""

    def __init__(self):
        super().__init__()
        self.ins, self.both, self.outs = nn.Linear(12, 40), nn.Linear(40, 40), nn.Linear(40, 5)
        self.alias = self.both

    def forward(self, x):
        x = torch.relu(self.ins(x))
        return self.outs(torch.relu(self.alias(torch.relu(self.both(x)))))


IMAGE, ROW = (3, 16, 16), (12,)
NETS: dict[str, tuple[Any, tuple[int, ...] | None]] = {
    "resnet": (ResNet, IMAGE),
    "mobile": (mobile, IMAGE),
    "vgg": (vgg, IMAGE),
    "mlp": (mlp, ROW),
    "grouped": (Grouped, IMAGE),
    "encoder": (Encoder, None),
    "encoder, batch second": (lambda: Encoder(batch_first=False), None),
    "vit": (ViT, IMAGE),
    "vit, fused": (lambda: ViT(Fused), IMAGE),
    "twins": (Twins, ROW),
}
"""Name -> what makes a net, and the shape of one sample; None: token ids."""


def samples(shape: tuple[int, ...] | None, count: int) -> Any:
    generator = torch.Generator().manual_seed(count)
    if shape is None:
        return torch.randint(0, 50, (count, 9), generator=generator)
    return torch.randn(count, *shape, generator=generator)


def labels(x: Any) -> Any:
    return (x.float().flatten(1)[:, :4].argmax(1)) % 4


def steps(net: Any, x: Any, count: int, rate: float = 0.02) -> list[float]:
    """Losses of plain gradient steps."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    losses = []
    for _ in range(count):
        loss = F.cross_entropy(net(x), labels(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def trained(name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    make, shape = NETS[name]
    net, x = make(), samples(shape, 96)
    steps(net, x, 8)
    return net.eval(), x


def export(net: Any, x: Any, path: Path, dynamo: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), str(path), dynamo=dynamo, verbose=False)


OPTIONS: dict[str, Any] = {"latency": False, "effort": "quick", "threads": 1}


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("name", NETS)
def test_a_smaller_module_equals_the_smaller_model_and_trains_on(
    tmp_path: Path, name: str, dynamo: bool
) -> None:
    net, x = trained(name)
    path, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    export(net, x[:2], path, dynamo)
    before = copy.deepcopy(net.state_dict())
    target = {"params" if len(x.shape) < 4 else "macs": 0.5}
    result = obs_onnx.prune(path, small, calib=x.numpy(), targets=target, **OPTIONS)
    assert result.report.met
    sliced = slices.slice(net, result, path, x[:2])
    (wanted,) = run(small, {result.model.graph.inputs[0].name: x[:2].numpy()})
    with torch.no_grad():
        found = sliced.module(x[:2]).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    dense = sum(one.numel() for one in net.parameters())
    assert sum(one.numel() for one in sliced.module.parameters()) < 0.8 * dense
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    losses = steps(sliced.module, x, 8, rate=0.01)
    assert losses[-1] < losses[0]


def small_prune(net: Any, x: Any, path: Path, dynamo: bool = False, **options: Any) -> Any:
    export(net, x[:2], path, dynamo)
    given = {"targets": {"params": 0.5}, **OPTIONS, **options}
    return obs_onnx.prune(path, path.with_name("small.onnx"), calib=x.numpy(), **given)


def test_files_are_enough(tmp_path: Path) -> None:
    """The model that was written with its keep.json, and that one alone, for the weights as they were."""
    net, x = trained("mlp")
    small_prune(net, x, tmp_path / "m.onnx")
    refitted = slices.slice(net, tmp_path / "small.onnx", tmp_path / "m.onnx")
    alone = slices.slice(net, tmp_path / "small.keep.json", str(tmp_path / "m.onnx"), (x[:2],))
    shapes = [[tuple(p.shape) for p in one.module.parameters()] for one in (refitted, alone)]
    old = net[0].weight.detach().numpy()
    assert {tuple(row) for row in alone.module[0].weight.detach().numpy()} <= {tuple(row) for row in old}
    assert shapes[0][:1] == shapes[1][:1]
    assert repr(alone).startswith("<Sliced: ")


def test_one_call_exports_prunes_and_cuts(tmp_path: Path) -> None:
    net, x = trained("resnet")
    net.train()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, labels(x)), batch_size=24)
    sliced = slices.prune(
        net, x[:1], loader, targets={"macs": 0.5}, output=tmp_path / "small.onnx", **OPTIONS
    )
    assert net.training
    assert sliced.module.training
    assert sliced.pruned.report.met
    assert sliced.pruned.report.after.accuracy is not None  # the second tensor of a batch is its labels
    (wanted,) = run(tmp_path / "small.onnx", {"x": x[:1].numpy()})
    with torch.no_grad():
        trains = sliced.module(x)
        infers = sliced.module.eval()(x)
    np.testing.assert_allclose(infers[:1], wanted, rtol=0, atol=1e-5)
    assert (trains - infers).norm() < 0.02 * infers.norm()  # running statistics are those of the data


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_layers_that_hold_the_same_numbers_are_told_apart(tmp_path: Path, dynamo: bool) -> None:
    """An encoder that nobody trained holds copies of one layer."""
    torch.manual_seed(0)
    net, x = Encoder().eval(), samples(None, 64)
    result = small_prune(net, x, tmp_path / "m.onnx", dynamo)
    sliced = slices.slice(net, result, tmp_path / "m.onnx", x[:2])
    assert sliced.difference < 1e-5


class Tied(nn.Module):
    """The table of the tokens is the matrix of the head."""

    def __init__(self):
        super().__init__()
        self.tokens, self.mix = (
            nn.Embedding(50, 40),
            nn.Sequential(nn.Linear(40, 60), nn.Tanh(), nn.Linear(60, 40)),
        )
        self.head = nn.Linear(40, 50, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids):
        x = self.tokens(ids)
        return self.head(x + self.mix(x))


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_parameters_that_are_one_stay_one_or_it_is_said(tmp_path: Path, dynamo: bool) -> None:
    torch.manual_seed(0)
    net, x = Tied().eval(), samples(None, 64)
    result = small_prune(net, x, tmp_path / "m.onnx", dynamo)
    sliced = slices.slice(net, result, tmp_path / "m.onnx", x[:2])
    assert sliced.difference < 1e-5
    one = sliced.module.head.weight is sliced.module.tokens.weight
    assert one == (not any("were one parameter" in note for note in sliced.notes))


class Crossed(nn.Module):
    """Queries of one input, keys and values of another; what must not be looked at is masked."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.kv = nn.Linear(12, 32), nn.Linear(12, 32), nn.Linear(12, 20)
        self.one = nn.MultiheadAttention(32, 4, batch_first=True)
        self.two = nn.MultiheadAttention(32, 4, batch_first=True, kdim=20, vdim=20, bias=False)
        self.head = nn.Linear(32, 4)
        self.register_buffer("mask", torch.ones(5, 5).triu(1).bool())

    def forward(self, x):
        a, b, c = torch.tanh(self.a(x)), torch.tanh(self.b(x)), torch.tanh(self.kv(x))
        y, _ = self.one(a, b, b, attn_mask=self.mask)
        z, shares = self.two(y, c, c)
        return self.head(z), shares


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_attention_to_others(tmp_path: Path, dynamo: bool) -> None:
    torch.manual_seed(0)
    net, x = Crossed().eval(), samples((5, 12), 64)
    result = small_prune(net, x, tmp_path / "m.onnx", dynamo)
    sliced = slices.slice(net, result, tmp_path / "m.onnx", x[:2])
    assert sliced.difference < 1e-5
    F.cross_entropy(sliced.module(x)[0].flatten(0, 1), labels(x).repeat_interleave(5)).backward()


def test_a_channel_that_normalization_switched_off(tmp_path: Path) -> None:
    net, x = trained("resnet")
    with torch.no_grad():
        net.bn1.weight[:3] = 0
        net.layer1[0].bn1.weight[:] = 1e-9
    sliced = slices.prune(
        net, x[:1], (x,), dynamo=False, targets={"macs": 0.7}, criterion="magnitude", **OPTIONS
    )
    assert sliced.difference < 1e-5


class Counting(nn.Module):
    """Its code counts on the number of channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(8 * 14 * 14, 4)

    def forward(self, x):
        y = torch.relu(self.conv(x)).view(len(x), 8, 2, 14, 14)
        return self.head(y.sum(2).flatten(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.parametrize(
    ("make", "shape", "told"),
    [(Counting, IMAGE, r"the module \(Counting\) cannot run"), (Recurrent, (5, 12), r"protect=.*LSTM")],
    ids=["sizes in code", "recurrent"],
)
def test_what_cannot_be_cut_is_named(tmp_path: Path, make: Any, shape: tuple[int, ...], told: str) -> None:
    torch.manual_seed(0)
    net, x = make().eval(), samples(shape, 64)
    result = small_prune(net, x, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=told):
        slices.slice(net, result, tmp_path / "m.onnx", x[:2])


def test_wrong_arguments_are_told(tmp_path: Path) -> None:
    net, x = trained("mlp")
    result = small_prune(net, x, tmp_path / "m.onnx")
    with pytest.raises(DataError, match="cannot be called"):
        slices.slice(net, result, tmp_path / "m.onnx", x[:2, :3])
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(DataError, match=r"is no keep\.json"):
        slices.slice(net, tmp_path / "other.json", tmp_path / "m.onnx")
    other, _ = trained("vgg")
    with pytest.raises((ModelError, DataError)):
        slices.slice(other, result, tmp_path / "m.onnx", x[:2])
    with pytest.raises(DataError, match="batches of 1 tensors"):
        slices.prune(net, x[:1], (x, x, x), targets={"params": 0.5})
