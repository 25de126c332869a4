"""Effect of `--decode reduced`: images resized after reduced decoding, compared with images resized at full size.

    python benchmarks/decode_quality.py DIR [--json FILE]

For each factor and each size of the result, print the mean absolute difference of values from 0 to 255 and the peak
signal-to-noise ratio in dB, averaged over some images. Sizes are relative to the decoded image: 1 is the largest that a
view can have. The last line compares two common filters (bilinear, Hamming) at half size.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from semiseg.data import open_dataset
from semiseg.data.files.image_files import decode
from semiseg.data.preview_selection import evenly_spaced

SIZES = (1.0, 0.75, 0.5, 0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="directory of images")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    dataset = open_dataset(args.data)
    paths = [path for id in evenly_spaced(dataset.ids, args.images) if (path := dataset.image_path(id)) is not None]
    print(f"{'factor':>7}" + "".join(f"{f'at {size:g}':>20}" for size in SIZES))
    rows = []
    for factor in (2, 4, 8):
        row = [compare(paths, factor, size / factor) for size in SIZES]
        print(f"{factor:>7}" + "".join(f"{mean:>10.2f}{ratio:>7.1f} dB" for mean, ratio in row))
        rows += [
            {"factor": factor, "size": size, "mean": m, "db": db} for size, (m, db) in zip(SIZES, row, strict=True)
        ]
    mean, ratio = compare(paths, 1, 0.5, Image.Resampling.HAMMING)
    print(f"{'filter':>7}{mean:>10.2f}{ratio:>7.1f} dB")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "filter": {"mean": mean, "db": ratio}}, indent=1) + "\n")


def compare(
    paths: list[Path], factor: int, scale: float, filter: Image.Resampling = Image.Resampling.BILINEAR
) -> tuple[float, float]:
    """Return mean absolute difference and PSNR in dB of both ways to resize to ``scale``, averaged over images."""
    found = []
    for path in paths:
        whole, part = decode(path, str(path)), decode(path, str(path), factor)
        height, width = (max(1, round(length * scale)) for length in whole.size)
        one = np.asarray(picture(whole.pixels).resize((width, height), Image.Resampling.BILINEAR), dtype=np.float64)
        box = (0.0, 0.0, whole.size[1] / part.factor, whole.size[0] / part.factor)
        other = np.asarray(picture(part.pixels).resize((width, height), filter, box), dtype=np.float64)
        found.append((np.abs(one - other).mean(), 10 * np.log10(255**2 / max(1e-9, ((one - other) ** 2).mean()))))
    mean, ratio = np.mean(found, axis=0).tolist()
    return mean, ratio


def picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


if __name__ == "__main__":
    main()
