"""A network small enough for hundreds of steps in a test, with batches and a training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from semiseg.methods import METHODS, Batch, Method, Progress


class Block(nn.Module):
    """``x + branch(x)``, with a ``drop_path`` for stochastic depth."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.norm(self.conv(x)).relu())


class Toy(nn.Module):
    """Images float ``(N, 3, H, W)`` in [0, 1] to logits ``(N, classes, H, W)``; two residual blocks."""

    def __init__(self, classes: int = 3, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 5, padding=2), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width, 1), Block(width, 2))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.resize(self.decode(self.encode(images)), images.shape[-2:])

    def encode(self, images: Tensor) -> list[Tensor]:
        return [images, self.blocks(self.stem(images - 0.5))]

    def decode(self, features: list[Tensor]) -> Tensor:
        return self.head(features[-1])

    def resize(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        return logits[..., : size[0], : size[1]]


def make(
    name: str, classes: int = 3, seed: int = 0, network: Callable[[int], nn.Module] = Toy, **options: object
) -> Method:
    """Return a method on toy networks, in train mode."""
    torch.manual_seed(seed)
    method = METHODS[name]
    return method(lambda: network(classes), classes, method.Options(**options)).train()


def make_batch(classes: int = 3, labeled: int = 2, unlabeled: int = 2, side: int = 16, seed: int = 0) -> Batch:
    """Return random images with labels that follow the colors and can be learned."""
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (labeled + unlabeled, 3, side // 4, side // 4), generator=g, dtype=torch.uint8)
    images = images.repeat_interleave(4, 2).repeat_interleave(4, 3)
    masks = images[:labeled, 0].long() * classes // 256
    valid = torch.ones(labeled + unlabeled, side, side, dtype=torch.bool)
    return Batch(images[:labeled], masks, valid[:labeled], images[labeled:], valid[labeled:])


def run(
    method: Method,
    batches: Iterable[Batch],
    total_steps: int = 100,
    steps_per_epoch: int = 10,
    lr: float = 0.05,
    first: int = 0,
    after: Callable[[int], None] | None = None,
) -> list[float]:
    """Train one step per batch as the trainer does, call ``after`` with each step, and return the losses."""
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step, batch in enumerate(batches, first):
        torch.manual_seed(1000 + step)
        progress = Progress(step, total_steps, steps_per_epoch)
        loss = method(batch, progress).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(progress)
        losses.append(loss.item())
        if after:
            after(step)
    return losses


def parameters(network: nn.Module) -> Tensor:
    """Return a copy of all parameters as one vector."""
    return torch.cat([p.detach().flatten().clone() for p in network.parameters()])


def state(network: nn.Module) -> Tensor:
    """Return a copy of parameters and buffers as one vector."""
    return torch.cat([t.detach().flatten().double().clone() for t in network.state_dict().values()])


def gradients(network: nn.Module) -> Tensor:
    """Return all gradients as one vector, 0 for parameters without gradient."""
    parts: Sequence[Tensor] = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return torch.cat([p.flatten().clone() for p in parts])


def start_over(run: Path) -> None:
    """Delete the checkpoints and metrics of a run, but keep its configuration."""
    (run / "metrics.jsonl").unlink()
    for path in (run / "checkpoints").iterdir():
        path.unlink()


def predict_several_classes(checkpoint: Path) -> None:
    """Randomize the last layers in a checkpoint, because a few steps of training predict a single class."""
    state = torch.load(checkpoint, weights_only=True)
    torch.manual_seed(0)
    for name, tensor in state["method"].items():
        if name.endswith("head.weight"):
            tensor.normal_().sub_(tensor.mean(dim=1, keepdim=True))  # features are positive: only their contrast counts
    torch.save(state, checkpoint)
