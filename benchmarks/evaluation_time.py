"""Time of an evaluation over the time of its forward passes, for whole images and sliding windows.

    python benchmarks/evaluation_time.py [--size 480 --images 20] [--json FILE]

Forward passes: the network on prepared images on the device; for sliding windows, on the same crops, four per batch.
Evaluation: read generated JPEGs and masks (PNG), predict, resize, count. Both alternate; the ratio is the median.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from step_time import add_settings, write_json
from torch import Tensor, nn

from semiseg.data import open_dataset
from semiseg.data.dataset import SegmentationDataset
from semiseg.inference.evaluation import evaluate_networks
from semiseg.inference.predictor import WINDOWS_AT_ONCE, Predictor, find_accelerator, window_starts
from semiseg.networks import build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser, "batch-size", "precision", "workers")
    parser.add_argument("--size", type=int, default=480, help="side of an image in pixels")
    parser.add_argument("--images", type=int, default=20)
    args = parser.parse_args()
    device = find_accelerator(args.accelerator)
    with tempfile.TemporaryDirectory() as scratch:
        dataset = open_dataset(generate(Path(scratch), args.images, args.size))
        network = build(args.architecture, args.encoder, len(dataset.classes), "none").eval().to(device)
        network = network.to(memory_format=torch.channels_last)
        rows = [compare(mode, network, dataset, args) for mode in ("whole", "slide")]
    write_json(args, rows)


def generate(root: Path, images: int, size: int) -> Path:
    """Create a data directory with a val list of ``images`` images."""
    shapes = open_dataset(f"shapes:images=1,val={images},test=1,size={size}")
    for folder in ("images", "masks", "splits"):
        (root / folder).mkdir()
    ids = shapes.split("val") or ()
    for id in ids:
        Image.fromarray(shapes.read_image(id).permute(1, 2, 0).numpy()).save(root / "images" / f"{id}.jpg", quality=90)
        Image.fromarray(shapes.read_mask(id).numpy()).save(root / "masks" / f"{id}.png")
    (root / "splits" / "val.txt").write_text("\n".join(ids) + "\n")
    (root / "classes.txt").write_text("\n".join(shapes.classes) + "\n")
    return root


def compare(mode: str, network: nn.Module, dataset: SegmentationDataset, args: argparse.Namespace) -> dict[str, object]:
    """Time evaluation and forward passes of one mode, print the row and return it."""
    device = next(network.parameters()).device
    ids = dataset.split("val") or ()
    predictor = Predictor(network, mode, args.crop_size)
    images = [predictor.network_input(dataset.read_image(id)) for id in ids]
    passes = [batch for image in images for batch in batches(image, args.crop_size if mode == "slide" else args.size)]

    @torch.inference_mode()
    def forward_passes() -> None:
        for batch in passes:
            network(batch)

    def evaluate() -> None:
        evaluate_networks({"student": network}, dataset, ids, device=device, mode=mode, crop_size=args.crop_size)

    forward_passes()
    pairs = [(seconds(forward_passes, device), seconds(evaluate, device)) for _ in range(args.rounds)]
    ratio = statistics.median(whole / least for least, whole in pairs)
    print(f"{mode:<8}{ratio:>7.3f}", flush=True)
    return {"mode": mode, "ratio": ratio, "bare_s": statistics.median(least for least, _ in pairs)}


def batches(image: Tensor, window: int) -> list[Tensor]:
    """Return the windows of an image in batches, as in the predictor."""
    starts = [(y, x) for y in window_starts(image.shape[-2], window) for x in window_starts(image.shape[-1], window)]
    crops = [image[..., y : y + window, x : x + window] for y, x in starts]
    return [torch.cat(crops[first : first + WINDOWS_AT_ONCE]) for first in range(0, len(crops), WINDOWS_AT_ONCE)]


def seconds(work: Callable[[], None], device: torch.device) -> float:
    """Return the seconds that ``work`` takes, including the device."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    start = now()
    work()
    return now() - start


if __name__ == "__main__":
    main()
