"""Images per second of data loading alone, by way of reading and number of workers.

    python benchmarks/loader.py [--size 4000x3000 --image-scale 0.25] [--data DIR] [--json FILE]

Loads batches of B labeled and B unlabeled images like `semiseg train`: read, weak view, stack. The ways of reading:

- *files*: full decoding, the default
- *reduced*: `--decode reduced`, if the scale of the views allows it
- *first*: `--cache` while it is filled
- *cache*: `--cache` when it is full

The ways alternate, and each figure is the best of its rounds, because other load can only slow down. Prints images per
second, in brackets the ratio to files without workers, and CPU milliseconds per image without workers. If
`--data` is absent, JPEGs and masks are generated; each is read once per round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from semiseg.config import TrainConfig
from semiseg.data import open_dataset
from semiseg.data.splits.dataset_split import resolve_split
from semiseg.data.stream.loader import StreamConfig, TrainStream, make_loader
from semiseg.training.decode_plan import make_reader

WAYS = ("files", "reduced", "first", "cache", "reduced first", "reduced cache")
DIFFERENT = 8  # generated images; the others are copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="960x720", help="width and height of the generated images")
    parser.add_argument("--data", help="directory to use instead")
    parser.add_argument("--labeled", default="1/2", help="labels of the directory")
    parser.add_argument("--image-scale", type=float, default=1.0)
    parser.add_argument("--crop-size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=12, help="timed batches")
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        data = args.data or str(generate(Path(scratch) / "data", args.size, 2 * args.batch_size * args.steps))
        rows = measure(args, data, Path(scratch))
    print(f"{'':<16}" + "".join(f"{f'{workers} workers':>18}" for workers in args.workers) + f"{'CPU':>10}")
    for way in dict.fromkeys(row["way"] for row in rows):
        own = [row for row in rows if row["way"] == way]
        print(f"{way:<16}" + "".join(f"{row['images_per_s']:>10.1f} ({row['ratio']:>4.2f}x)" for row in own), end="")
        print("".join(f"{row['cpu_ms']:>7.1f} ms" for row in own if row["workers"] == 0))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key != "json"}
        about = {"settings": settings, "cores": os.cpu_count(), "load": os.getloadavg()[0], "rows": rows}
        args.json.write_text(json.dumps(about, indent=1) + "\n")


def generate(root: Path, size: str, images: int) -> Path:
    """Make a plain folder of JPEGs with the detail and file size of photographs, all with masks, and one for val."""
    width, height = map(int, size.split("x"))
    draw = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index in range(DIFFERENT):
        pixels = np.zeros((height, width, 3), np.float32)
        for coarse, strength in ((64, 90), (16, 40), (4, 20), (1, 6)):
            noise = draw.integers(0, 256, (height // coarse + 1, width // coarse + 1, 3), dtype=np.uint8)
            smooth = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
            pixels += np.asarray(smooth) * (strength / 160)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{index:04d}.jpg", quality=85)
        regions = draw.integers(0, 8, (height // 64 + 1, width // 64 + 1), dtype=np.uint8)
        mask = Image.fromarray(regions).resize((width, height), Image.Resampling.NEAREST)
        mask.save(root / "masks" / f"{index:04d}.png")
    for index in range(DIFFERENT, images + 1):
        for folder, suffix in (("images", "jpg"), ("masks", "png")):
            shutil.copyfile(
                root / folder / f"{index % DIFFERENT:04d}.{suffix}", root / folder / f"{index:04d}.{suffix}"
            )
    (root / "classes.txt").write_text("".join(f"class{index}\n" for index in range(8)))
    (root / "splits").mkdir()
    (root / "splits" / "val.txt").write_text(f"{images:04d}\n")
    return root


def measure(args: argparse.Namespace, data: str, scratch: Path) -> list[dict[str, Any]]:
    """Return a row for each way and number of workers, in the order of ``WAYS``."""
    dataset = open_dataset(data)
    split = resolve_split(dataset, args.labeled if args.data else str(args.batch_size * args.steps), 0)
    plain = replace(TrainConfig(), image_scale=args.image_scale)
    config = StreamConfig(args.batch_size, args.crop_size, args.image_scale, unlabeled_batch_size=args.batch_size)
    ways = [way for way in WAYS if "reduced" not in way or make_reader(reduced(plain), dataset, split)[0].factor > 1]
    rates: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for _ in range(args.rounds):
        for workers in args.workers:
            for way in ways:
                own = reduced(plain) if "reduced" in way else plain
                reader, _ = make_reader(replace(own, cache=folder_for(way, scratch)), dataset, split)
                stream = TrainStream(dataset, split.labeled, split.unlabeled, config, reader=reader)
                rates[way, workers].append(seconds(stream, args, workers))
    rows: list[dict[str, Any]] = []
    for way, workers in sorted(rates, key=lambda key: ways.index(key[0])):
        wall, cpu = map(min, zip(*rates[way, workers], strict=True))
        row = {"way": way, "workers": workers, "images_per_s": 1 / wall, "cpu_ms": 1000 * cpu}
        rows.append(row | {"ratio": row["images_per_s"] / (rows[0] if rows else row)["images_per_s"]})
    return rows


def reduced(config: TrainConfig) -> TrainConfig:
    return replace(config, decode="reduced")


def folder_for(way: str, scratch: Path) -> str | None:
    """Return the cache directory, or None: *first* empties it, *cache* finds it full."""
    if not way.endswith(("first", "cache")):
        return None
    folder = scratch / ("reduced" if "reduced" in way else "whole")
    if way.endswith("first"):
        shutil.rmtree(folder, ignore_errors=True)
    return str(folder)


def seconds(stream: TrainStream, args: argparse.Namespace, workers: int) -> tuple[float, float]:
    """Return seconds and CPU seconds of this process per image, from the start of the workers to the last batch."""
    start, cpu, images = time.perf_counter(), time.process_time(), 2 * args.batch_size * args.steps
    for _ in make_loader(stream, 0, args.steps, workers):
        pass
    return (time.perf_counter() - start) / images, (time.process_time() - cpu) / images


if __name__ == "__main__":
    main()
