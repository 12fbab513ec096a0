"""A network of PyTorch to half of its operations, and training that goes on from there.

pip install 'obs-onnx[cpu,torch]'
python examples/pytorch_train_on.py
"""

from __future__ import annotations

import torch
from torch import nn

import obs_onnx.torch


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Body and shortcut, added."""
        return torch.relu(x + self.body(x))


def train(net: nn.Module, images: torch.Tensor, labels: torch.Tensor, steps: int, rate: float) -> float:
    """Plain steps; the last loss."""
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss)


def main() -> obs_onnx.torch.Sliced:
    """Train, prune, train on."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), Block(24), Block(24),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4),
    )  # fmt: skip
    images = torch.randn(128, 3, 12, 12)
    labels = images.mean(1).flatten(1)[:, :4].argmax(1)
    print(f"loss {train(net, images, labels, steps=30, rate=0.05):.3f}")

    sliced = obs_onnx.torch.prune(
        net, images[:1], images, targets={"macs": 0.5}, latency=False, effort="quick"
    )
    print(sliced)
    print(f"loss {train(sliced.module, images, labels, steps=10, rate=0.01):.3f} after ten more steps")
    return sliced


if __name__ == "__main__":
    main()
