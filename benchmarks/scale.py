"""Estimates for many GPUs and many images: the tables of docs/scale.md.

python benchmarks/scale.py [--architecture deeplabv3plus --encoder resnet50 --batch-size 8] [--json FILE]
"""

import argparse
import json
from pathlib import Path

from semiseg.networks import build

WITHIN, BETWEEN = 300e9, 25e9  # bytes/s per GPU and direction: NVLink in a machine, 200 Gbit/s between machines
PER_MACHINE = 8
LETTERS = 20  # length of an image's name
NAME_BYTES = LETTERS + 8  # characters and their end in a string array
STRING_BYTES = LETTERS + 49 + 8  # a Python string and its pointer in a tuple
LABELED = 1464
COLUMNS = ("strings_gb", "packed_gb", "order_gb", "list_gb")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="deeplabv3plus")
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=8, help="labeled images of a GPU, and as many unlabeled")
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    steps_of, pools = [], []
    network = build(args.architecture, args.encoder, 21, "none")
    parameters = sum(p.numel() for p in network.parameters())
    statistics = sum(buffer.nbytes for buffer in network.buffers())
    print(f"{parameters / 1e6:.2f} M parameters, {4 * parameters / 1e6:.0f} MB in fp32; ", end="")
    print(f"{statistics / 1e6:.2f} MB of running statistics\n")
    print("| GPUs | batch, labeled + unlabeled | sent by a GPU each step | at least | steps over 10^6 | over 10^9 |")
    print("|---|---|---|---|---|---|")
    for gpus in (8, 64, 512):
        sent = 2 * (gpus - 1) / gpus * 4 * parameters  # ring all-reduce of the gradients
        speed = WITHIN if gpus <= PER_MACHINE else BETWEEN
        batch = gpus * args.batch_size
        steps = [-(-images // batch) for images in (10**6, 10**9)]
        steps_of.append({"gpus": gpus, "batch": batch, "sent_bytes": sent, "least_s": sent / speed, "steps": steps})
        print(f"| {gpus} | {batch} + {batch} ({batch / LABELED:.2f} passes over {LABELED} labels) |", end="")
        print(f" {sent / 1e6:.0f} MB | {1000 * sent / speed:.1f} ms | {' | '.join(f'{count:,}' for count in steps)} |")
    print("\n| unlabeled images | names, as strings | packed, for workers | an epoch's order | the list's file |")
    print("|---|---|---|---|---|")
    for power in (6, 9):
        sizes = [size * 10**power / 1e9 for size in (STRING_BYTES, NAME_BYTES, 8, LETTERS + 1)]
        pools.append({"images": 10**power} | dict(zip(COLUMNS, sizes, strict=True)))
        print(f"| 10^{power} | " + " | ".join(f"{size:.3g} GB" for size in sizes) + " |")
    if args.json:
        args.json.write_text(
            json.dumps(
                {"parameters": parameters, "statistics_bytes": statistics, "steps": steps_of, "pools": pools}, indent=1
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
