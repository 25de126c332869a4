"""``semiseg predict``: segment images with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from semiseg.cli.option_parsing import Argv, is_rank_zero, parse
from semiseg.option_ranges import AT_LEAST_ONE, range_error

RESULTS = {
    "probabilities": "probabilities/",
    "coco": "coco.json",
    "geojson": "geojson/",
    "label-studio": "label-studio.json",
    "labelme": "labelme/",
    "yolo": "yolo/",
}
"""The further result of each format below OUT."""


@dataclass
class Predict:
    """Write an indexed mask with palette for every image, at the size of the image."""

    run: tyro.conf.Positional[str]
    """Run directory, checkpoint file, or published checkpoint (docs/published-networks.md)."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files and directories, with subdirectories; or shards: a directory or URL of tar files, or index.json."""
    out: str
    """Directory for the masks. OUT/<path below the given directory>.png, or .tif for a GeoTIFF, with its georeference.
    If files differ only in their suffix: <path>.jpg.png. For shards: OUT/<name>.tar that contains <key>.png."""
    network: str | None = None
    """Network to use: student, teacher1, ..., teachers-average."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""
    format: Literal["png", "probabilities", "coco", "geojson", "label-studio", "labelme", "yolo"] = "png"
    """A further result. probabilities: OUT/probabilities/<path>.npy, float16 (classes, height, width), or
    GeoTIFF; coco: OUT/coco.json, which CVAT reads too; geojson: OUT/geojson/<path>.geojson; label-studio:
    OUT/label-studio.json; labelme, yolo: polygons with the classes and links to the images in OUT/labelme, OUT/yolo."""
    min_confidence: float = 0.0
    """Pixels with a lower probability become 255 (unknown)."""
    overlay: bool = False
    """Also write OUT/overlays/<path>.png, the image with the classes in color and a legend."""
    confidence: bool = False
    """Also write OUT/confidence/<path>.png: gray, 255 for certain."""
    mode: Literal["auto", "whole", "slide"] = "auto"
    """whole: each image at once; slide: in overlapping windows; auto: in windows if it does not fit into memory."""
    window: int | None = None
    """Side of the windows in pixels of the image (after --image-scale of the run). Default: the training crop size, up
    to 1024 if auto chooses windows."""
    skip_existing: bool = False
    """Skip files that already exist in OUT; otherwise existing files are an error."""
    part: str = "1/1"
    """I/N: predict part I of N of the images or shards, for N jobs that do not communicate, such as a job array."""
    sliding: bool = False
    """Deprecated: pass --mode slide."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    devices: int | Literal["auto"] = "auto"
    """Number of devices (processes) that split the images; auto: one, or those started by torchrun."""


def predict(argv: Argv) -> None:
    """Segment images with a trained model."""
    from semiseg.workflows.predict import predict as run

    args: Predict = parse(Predict, argv, "semiseg predict")
    if args.devices != "auto" and args.devices < 1:
        raise range_error("devices", args.devices, AT_LEAST_ONE)
    options = {key: value for key, value in vars(args).items() if key not in ("run", "images", "out")}
    written = run(args.run, args.images, args.out, **options)
    if is_rank_zero():
        shards = written and written[0].suffix == ".tar"
        print(f"{len(written)} {'shards of masks' if shards else 'masks'} in {args.out}")
        if result := RESULTS.get(args.format):
            print(f"{args.format}: {Path(args.out, result)}")
