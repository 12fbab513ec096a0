"""Modules of PyTorch of the kinds that are trained: for tests where the package torch is."""

from __future__ import annotations

from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", reason="needs the package torch")
if not hasattr(torch, "nn"):
    pytest.skip("needs the package torch", allow_module_level=True)

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


class Bottleneck(nn.Module):
    """Wide and back to a narrow stream that nothing but sums and convolutions touch."""

    def __init__(self, ins: int, outs: int):
        super().__init__()
        wide = 3 * ins
        self.body = nn.Sequential(
            nn.Conv2d(ins, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, outs, 1, bias=False), nn.BatchNorm2d(outs),
        )  # fmt: skip
        self.shortcut = ins == outs

    def forward(self, x):
        return x + self.body(x) if self.shortcut else self.body(x)


def bottlenecks() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(),
        Bottleneck(16, 24), Bottleneck(24, 24), Bottleneck(24, 24),
        nn.Conv2d(24, 48, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5),
    )  # fmt: skip


class Joined(nn.Module):
    """A layer of DenseNet: what came in, and twelve channels more."""

    def __init__(self, ins: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(ins), nn.Conv2d(ins, 24, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(24), nn.Conv2d(24, 12, 3, 1, 1, bias=False)

    def forward(self, x):
        y = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(y)))], 1)


def densenet() -> Any:
    """Normalization in front of convolutions, of which only some can be folded; many of the same size."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), Joined(16), Joined(28),
        nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 16, 1, bias=False), nn.AvgPool2d(2),
        Joined(16), Joined(28), nn.BatchNorm2d(40), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5),
    )  # fmt: skip


class RMSNorm(nn.Module):
    """As language models write it."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class Gated(nn.Module):
    """Tokens, places from a buffer, attention and a gate, all without biases."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(50, 32)
        self.register_buffer("places", torch.randn(9, 32) / 4, persistent=False)
        self.norm1, self.attn, self.norm2, self.norm = RMSNorm(32), Fused(32, 4), RMSNorm(32), RMSNorm(32)
        self.gate, self.up = (nn.Linear(32, 64, bias=False) for _ in range(2))
        self.down, self.head = nn.Linear(64, 32, bias=False), nn.Linear(32, 4, bias=False)

    def forward(self, ids):
        x = self.tokens(ids) + self.places
        x = x + self.attn(self.norm1(x))
        y = self.norm2(x)
        return self.head(self.norm(x + self.down(F.silu(self.gate(y)) * self.up(y))).mean(1))


class Towers(nn.Module):
    """A deeper ViT with torch's own attention, whose biases are all zero before training."""

    def __init__(self):
        super().__init__()
        self.patches, self.pos = nn.Conv2d(3, 32, 4, stride=4), nn.Parameter(torch.randn(1, 17, 32) * 0.02)
        self.cls = nn.Parameter(torch.zeros(1, 1, 32))
        self.norms = nn.ModuleList([nn.LayerNorm(32) for _ in range(5)])
        self.attns = nn.ModuleList([nn.MultiheadAttention(32, 4, batch_first=True) for _ in range(2)])
        self.mlps = nn.ModuleList(
            [nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(2)]
        )
        self.head = nn.Linear(32, 5)
        for name, one in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(one)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        for place, (attn, mlp) in enumerate(zip(self.attns, self.mlps, strict=True)):
            y = self.norms[2 * place](x)
            x = x + attn(y, y, y, need_weights=False)[0]
            x = x + mlp(self.norms[2 * place + 1](x))
        return self.head(self.norms[4](x)[:, 0])


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
    "bottlenecks": (bottlenecks, IMAGE),
    "densenet": (densenet, IMAGE),
    "gated": (Gated, None),
    "twins": (Twins, ROW),
}
"""Name -> what makes a net, and the shape of one sample; None: token ids."""
