"""What many GPUs and many images ask for, on paper: the tables of docs/scale.md.

python benchmarks/scale.py [--architecture deeplabv3plus --encoder resnet50 --batch-size 8]
"""

import argparse

from semiseg.networks import build

WITHIN, BETWEEN = 300e9, 25e9  # bytes a second each way and GPU: NVLink within a machine; 200 Gbit/s between machines
PER_MACHINE = 8
LETTERS = 20  # of an image's name
NAME_BYTES = LETTERS + 8  # packed: the letters, and where they end
STRING_BYTES = LETTERS + 49 + 8  # a Python string, and a place in a tuple
LABELED = 1464


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="deeplabv3plus")
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--batch-size", type=int, default=8, help="labeled images of a GPU, and as many unlabeled")
    args = parser.parse_args()
    parameters = sum(p.numel() for p in build(args.architecture, args.encoder, 21, "none").parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {4 * parameters / 1e6:.0f} MB in fp32\n")
    print("| GPUs | batch, labeled + unlabeled | sent by a GPU each step | at least | steps over 10^6 | over 10^9 |")
    print("|---|---|---|---|---|---|")
    for gpus in (8, 64, 512):
        sent = 2 * (gpus - 1) / gpus * 4 * parameters  # ring all-reduce of the gradients
        speed = WITHIN if gpus <= PER_MACHINE else BETWEEN
        batch = gpus * args.batch_size
        steps = [f"{-(-images // batch):,}" for images in (10**6, 10**9)]
        print(f"| {gpus} | {batch} + {batch} ({batch / LABELED:.2f} passes over {LABELED} labels) |", end="")
        print(f" {sent / 1e6:.0f} MB | {1000 * sent / speed:.1f} ms | {' | '.join(steps)} |")
    print("\n| unlabeled images | names, as strings | packed, for workers | an epoch's order | the list's file |")
    print("|---|---|---|---|---|")
    for power in (6, 9):
        sizes = (STRING_BYTES, NAME_BYTES, 8, LETTERS + 1)
        print(f"| 10^{power} | " + " | ".join(f"{size * 10**power / 1e9:.3g} GB" for size in sizes) + " |")


if __name__ == "__main__":
    main()
