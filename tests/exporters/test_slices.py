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

from torch_nets import IMAGE, NETS, Encoder, Towers, bottlenecks, densenet  # noqa: E402

import obs_onnx.torch as slices  # noqa: E402

nn = torch.nn
F = nn.functional


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
        losses.append(loss.item())
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


UNTRAINED: dict[str, tuple[Any, tuple[int, ...] | None]] = {
    "copies of one layer": (Encoder, None),
    "zero biases": (Towers, IMAGE),
    "normalization in front": (densenet, IMAGE),
    "normalization behind": (bottlenecks, IMAGE),
}


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
@pytest.mark.parametrize("name", UNTRAINED)
def test_layers_that_hold_the_same_numbers_are_told_apart(tmp_path: Path, name: str, dynamo: bool) -> None:
    """Nobody trained them: layers are copies, biases zeros, and normalization folds ones in."""
    torch.manual_seed(0)
    make, shape = UNTRAINED[name]
    net, x = make().eval(), samples(shape, 64)
    result = small_prune(net, x, tmp_path / "m.onnx", dynamo)
    sliced = slices.slice(net, result, tmp_path / "m.onnx", x[:2])
    assert sliced.difference < 1e-5


def correlated(shape: tuple[int, ...], count: int) -> Any:
    """Samples that lie near four directions, so that few axes hold most of what streams carry."""
    directions = samples(shape, 4).flatten(1)
    shares = samples((4,), count)
    return (shares @ directions + 0.3 * samples(shape, count).flatten(1)).view(count, *shape)


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_rotated_streams(tmp_path: Path, dynamo: bool) -> None:
    """Parameters hold what channels on other axes have; keep.json alone rotates the module's own."""
    torch.manual_seed(0)
    net, x = Towers().eval(), correlated(IMAGE, 96)
    result = small_prune(net, x, tmp_path / "m.onnx", dynamo, targets={"macs": 0.5})
    assert result.keep["rotated"]
    sliced = slices.slice(net, tmp_path / "small.onnx", tmp_path / "m.onnx", x[:2])
    assert sliced.difference < 1e-5
    assert (sliced.module.norms[0].weight == 1).all()  # scales went into the layers that read them
    assert sliced.module.pos.shape[2] == sliced.module.patches.out_channels < 32
    losses = steps(sliced.module, x, 6, rate=0.01)
    assert losses[-1] < losses[0]
    alone = slices.slice(net, tmp_path / "small.keep.json", tmp_path / "m.onnx", x[:2])
    assert alone.difference < 1e-5
    assert alone.module.pos.shape == sliced.module.pos.shape


def test_statistics_are_measured_where_data_is_given(tmp_path: Path) -> None:
    """Channels of a rotated stream have variances of their own."""
    torch.manual_seed(0)
    net, x = bottlenecks(), correlated(IMAGE, 96)
    steps(net, x, 8)
    result = small_prune(net.eval(), x, tmp_path / "m.onnx", targets={"macs": 0.5})
    assert any("rotated to principal axes" in note for note in result.report.notes)
    apart = []
    for calib in (None, x, [(x[:48], labels(x[:48])), (x[48:], labels(x[48:]))]):
        module = slices.slice(net, result, tmp_path / "m.onnx", x[:2], calib).module
        with torch.no_grad():
            infers, trains = module(x), copy.deepcopy(module).train()(x)
        apart.append(float((trains - infers).norm() / infers.norm()))
    assert apart[0] > 0.1
    assert max(apart[1:]) < 0.02
    with pytest.raises(DataError, match="calib needs tensors"):
        slices.slice(net, result, tmp_path / "m.onnx", x[:2], {"x": x.numpy()})


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


class Waves(nn.Module):
    """Places that are computed, and no parameter."""

    def __init__(self):
        super().__init__()
        self.tokens, self.norm, self.head = nn.Embedding(50, 32), nn.LayerNorm(32), nn.Linear(32, 4)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, ids):
        angles = torch.arange(9)[:, None] * torch.exp(torch.arange(16) * -0.3)
        x = self.tokens(ids) + torch.cat([torch.sin(angles), torch.cos(angles)], 1)
        return self.head(self.norm(x + self.mlp(x)).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, 24, batch_first=True), nn.Linear(24, 4)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.parametrize(
    ("make", "shape", "told"),
    [
        (Counting, IMAGE, r"the module \(Counting\) cannot run"),
        (Recurrent, (5, 12), r"protect=.*LSTM"),
        (Waves, None, r"no parameter holds .*protect="),
    ],
    ids=["sizes in code", "recurrent", "computed"],
)
def test_what_cannot_be_cut_is_named(
    tmp_path: Path, make: Any, shape: tuple[int, ...] | None, told: str
) -> None:
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
