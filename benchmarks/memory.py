"""What a training step keeps in memory, without a GPU to measure it on: a method for paper, and its figures.

    python benchmarks/memory.py [--architecture deeplabv3plus --encoder resnet50 --crop-size 321 --batch-size 8]

For each method, in fp32: what stays (weights of all networks, gradients and AdamW's two moments of what learns), and
what the passes that learn keep for the backward pass (every tensor that autograd saves, counted once by its storage),
on PyTorch's meta device, where tensors have a size and no content. Not counted: workspaces of convolutions, what the
allocator sets aside, and what a loss keeps: some (images x classes x crop x crop) x 4 bytes each. In bf16 the second
figure is about half.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from step_time import TOTAL, add_settings, made_loop, record_passes
from torch import Tensor, nn

from semiseg.methods import METHODS, Progress
from semiseg.networks import SegmentationNetwork, build

CLASSES = 21


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser)
    parser.set_defaults(architecture="deeplabv3plus", encoder="resnet50", crop_size=321, batch_size=8)
    args = parser.parse_args()
    network = build(args.architecture, args.encoder, CLASSES, "none").to("meta")
    with torch.device("meta"):
        kept = {count: saved_bytes(network, count, args.crop_size) for count in (1, 2)}
    per_image = kept[2] - kept[1]
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{args.architecture} over {args.encoder}: {parameters / 1e6:.2f} M parameters")
    print(f"{per_image / 1e6:.0f} MB kept for the backward pass of an image of {args.crop_size} x {args.crop_size}")
    print(f"{'method':<28}{'networks':>9}{'stays MB':>10}{'learns':>8}{'passes MB':>11}{'sum MB':>8}")
    rows = [row(name, parameters, per_image, args) for name in METHODS]
    if args.json:
        args.json.write_text(
            json.dumps({"parameters": parameters, "per_image": per_image, "rows": rows}, indent=1) + "\n"
        )


def saved_bytes(network: nn.Module, images: int, side: int) -> int:
    """Return the bytes that autograd saves in one forward pass over ``images`` images, weights left out."""
    weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    seen: dict[int, tuple[Any, int]] = {}  # the storage is held, so that no other one gets its number

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = storage, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network.train()(torch.empty(images, 3, side, side))
    return sum(size for _, size in seen.values())


def row(name: str, parameters: int, per_image: int, args: argparse.Namespace) -> dict[str, Any]:
    """Print and return the figures of a method: its networks and passes are those of a small one."""
    small = argparse.Namespace(**vars(args) | {"encoder": "test_resnet", "crop_size": 32, "accelerator": "cpu"})
    small.architecture = "deeplabv3plus-separable"
    with made_loop(name, small, workers=0) as loop:
        step = TOTAL // 2
        batch = loop.stream[step]
        loop.method.train()
        passes = record_passes(loop, lambda: loop.step(batch, Progress(step, TOTAL, loop.stream.steps_per_epoch)))
        networks = [module for module in loop.method.modules() if isinstance(module, SegmentationNetwork)]
        learning = sum(any(p.requires_grad for p in network.parameters()) for network in networks)
    learns = sum(counts["learns"][0] for counts in passes.values())
    stays = 4 * parameters * (len(networks) + 3 * learning)  # weights; gradient and two moments of what learns
    kept = learns * per_image
    print(f"{name:<28}{len(networks):>9}{stays / 1e6:>10.0f}{learns:>8}{kept / 1e6:>11.0f}{(stays + kept) / 1e6:>8.0f}")
    return {
        "method": name,
        "networks": len(networks),
        "stays_mb": stays / 1e6,
        "learns": learns,
        "passes_mb": kept / 1e6,
    }


if __name__ == "__main__":
    main()
