"""Memory of a training step, counted without a GPU.

    python benchmarks/memory.py [--architecture deeplabv3plus --encoder resnet50 --crop-size 321 --batch-size 8]

For each method in fp32, on PyTorch's meta device, where tensors have a size but no content:

- *stays*: weights of all networks, gradients and AdamW's two moments of trainable parameters
- *passes*: tensors that autograd saves for the backward pass, each storage counted once; about half in bf16

Not counted: workspaces of convolutions, reserved memory of the allocator, and tensors of the losses, about (images x
classes x crop x crop) x 4 bytes each. The last columns are the sum with --accumulate 2, with --activation-checkpointing
and with --freeze-encoder. --teacher-precision bf16 does not change the peak, because teacher activations are freed
before the student's pass.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import torch
from step_time import TOTAL, add_settings, make_trainer, record_passes
from torch import Tensor, nn

from semiseg.methods import METHODS, Progress
from semiseg.networks import SegmentationNetwork, build
from semiseg.ops.activation_checkpointing import recompute_activations

CLASSES = 21


@dataclass(frozen=True)
class Costs:
    """Costs of one network: parameters, trainable parameters, and saved bytes per image."""

    parameters: int
    learning: int
    per_image: int

    def stays(self, networks: int, learning: int) -> int:
        """Return the bytes of the weights of all networks, and of gradients and moments of the ``learning`` ones."""
        return 4 * (self.parameters * networks + 3 * self.learning * learning)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser, "accelerator", "precision", "workers", "rounds")
    parser.set_defaults(architecture="deeplabv3plus", encoder="resnet50", crop_size=321, batch_size=8)
    args = parser.parse_args()
    costs = {kind: costs_of(kind, args) for kind in ("plain", "recomputed", "frozen")}
    print(f"{args.architecture} over {args.encoder}: {costs['plain'].parameters / 1e6:.2f} M parameters")
    print(f"kept for the backward pass of an image of {args.crop_size} x {args.crop_size}, MB:", end=" ")
    print(", ".join(f"{kind} {cost.per_image / 1e6:.0f}" for kind, cost in costs.items()))
    print(f"{'method':<28}{'networks':>9}{'stays':>8}{'learns':>8}{'passes':>8}{'sum MB':>8}", end="")
    print(f"{'2 parts':>9}{'recomputed':>12}{'frozen':>8}")
    rows = [row(name, costs, args) for name in METHODS]
    if args.json:
        about = {kind: vars(cost) for kind, cost in costs.items()}
        args.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


def costs_of(kind: str, args: argparse.Namespace) -> Costs:
    """Return the costs of the network: ``plain``, with activations ``recomputed``, or with a ``frozen`` encoder."""
    network = build(args.architecture, args.encoder, CLASSES, "none").to("meta")
    if kind == "recomputed":
        recompute_activations(network.encoder)
    elif kind == "frozen":
        network.freeze_encoder()
    with torch.device("meta"):
        kept = [saved_bytes(network, count, args.crop_size) for count in (1, 2)]
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    return Costs(sum(size for size, _ in sizes), sum(size for size, learns in sizes if learns), kept[1] - kept[0])


def saved_bytes(network: nn.Module, images: int, side: int) -> int:
    """Return the bytes, without weights, that autograd saves in a forward pass over ``images`` images."""
    weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    seen: dict[int, tuple[Any, int]] = {}  # holding the storage prevents the reuse of its id

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = storage, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network.train()(torch.empty(images, 3, side, side))
    return sum(size for _, size in seen.values())


def row(name: str, costs: dict[str, Costs], args: argparse.Namespace) -> dict[str, Any]:
    """Print and return the figures of a method in MB; a small network is enough to count networks and passes."""
    small: dict[str, Any] = {"architecture": "deeplabv3plus-separable", "encoder": "test_resnet", "crop_size": 32}
    small |= {"accelerator": "cpu", "precision": "fp32", "workers": 0}
    with make_trainer(name, argparse.Namespace(**vars(args) | small)) as trainer:
        step = TOTAL // 2
        batch = trainer.stream[step]
        trainer.method.train()
        passes = record_passes(
            trainer, lambda: trainer.step(batch, Progress(step, TOTAL, trainer.stream.steps_per_epoch))
        )
        networks = [module for module in trainer.method.modules() if isinstance(module, SegmentationNetwork)]
        learning = sum(any(p.requires_grad for p in network.parameters()) for network in networks)
    learns = sum(counts["learns"][0] for counts in passes.values())
    stays = {kind: cost.stays(len(networks), learning) / 1e6 for kind, cost in costs.items()}
    passes = {kind: learns * cost.per_image / 1e6 for kind, cost in costs.items()}
    total = {kind: stays[kind] + passes[kind] for kind in costs} | {"halves": stays["plain"] + passes["plain"] / 2}
    print(f"{name:<28}{len(networks):>9}{stays['plain']:>8.0f}{learns:>8}{passes['plain']:>8.0f}", end="")
    print(f"{total['plain']:>8.0f}{total['halves']:>9.0f}{total['recomputed']:>12.0f}{total['frozen']:>8.0f}")
    counts = {"method": name, "networks": len(networks), "learns": learns}
    return counts | {"stays_mb": stays, "passes_mb": passes, "sum_mb": total}


if __name__ == "__main__":
    main()
