"""Report sections with the pictures in ``samples/``; missing or unreadable pictures are left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import PIL.Image

from semiseg.data.files.image_header import UNREADABLE
from semiseg.data.preview_selection import evenly_spaced
from semiseg.tools.report.html_page import Block, Legend, Picture, Section, Strip, photo
from semiseg.tools.report.run_files import RunFiles

MAX_SAMPLES = 4
MAX_STEPS = 12  # in a strip; a run with more validations shows some of them, including the first and the last
CELL_BYTES, SAMPLE_BYTES = 25_000, 150_000  # so that a page with all its pictures stays below 5 MB
CELLS = {
    "image": "image",
    "truth": "truth",
    "prediction": "prediction",
    "wrong": "errors in red",
    "confidence": "confidence (white: high)",
}
GROUPS = {"best": "Best", "worst": "Worst", "random": "Random"}


def predictions(run: RunFiles) -> Section:
    """Show the best, the worst and random predictions on val, each with the image's id and mIoU."""
    blocks: list[Block] = []
    for group, title in GROUPS.items():
        for folder in sorted((run.path / "samples" / "val").glob(f"{group}-*")):
            texts = _read_texts(folder / "image.png")
            name = texts.get("id", folder.name)
            cells = [
                picture
                for key, text in CELLS.items()
                for picture in _read_picture(folder / f"{key}.png", text, CELL_BYTES, alt=f"{name}: {text}")
            ]
            miou = f", mIoU {texts['miou']} %" if "miou" in texts else ""
            blocks += [Strip(f"{title}: {name}{miou}", cells)] if cells else []
    text = (
        f"Val images and the predictions of the {run.default_network or 'network'} at the best checkpoint. The mIoU of "
        "an image averages the classes in its mask. Of neighboring images in the list, only one is shown."
    )
    return Section("Predictions", text, [*blocks, *_legend(run)] if blocks else [])


def pseudo_labels(run: RunFiles) -> Section:
    """Show the pseudo-labels of a few unlabeled images at each validation."""
    blocks: list[Block] = []
    for folder in sorted((run.path / "samples" / "pseudo-labels").glob("*_*")):
        name = _read_texts(folder / "image.png").get("id", folder.name.partition("_")[2])
        cells = list(_read_picture(folder / "image.png", "image", CELL_BYTES, alt=name))
        for path in _sampled(sorted(path for path in folder.glob("*.png") if re.match(r"\d+_.", path.name))):
            step, _, network = path.stem.partition("_")
            trusted = _read_texts(path).get("trusted")
            caption = f"step {int(step)}, {network}" + (f", {trusted} % trusted" if trusted else "")
            cells += _read_picture(path, caption, CELL_BYTES, alt=f"{name}: pseudo-labels at {caption}")
        blocks += [Strip(name, cells)] if len(cells) > 1 else []
    text = (
        "Pseudo-labels of a few unlabeled images during training, and the network that predicted them. Pale pixels are "
        "below its threshold and are not used. The true classes of these images are unknown."
    )
    return Section("Pseudo-labels over time", text, [*blocks, *_legend(run)] if blocks else [])


def samples(run: RunFiles) -> Section:
    """Show the predictions of every network on a few val images at the end of training."""
    pictures = [
        picture
        for path in evenly_spaced(run.samples, MAX_SAMPLES)
        for picture in _read_picture(path, path.stem, SAMPLE_BYTES, min_width=860)
    ]
    return Section("Samples", "Val images at the end of training: image, every network, ground truth.", pictures)


def _legend(run: RunFiles) -> list[Legend]:
    """Return the colors of the classes; nothing if samples/classes.json is missing or malformed."""
    try:
        content = json.loads((run.path / "samples" / "classes.json").read_text("utf-8"))
        entries = [(str(name), (int(r), int(g), int(b))) for name, (r, g, b) in zip(*content.values(), strict=True)]
    except (OSError, ValueError, TypeError, AttributeError):
        return []
    return [Legend(entries)]


def _sampled(paths: list[Path]) -> list[Path]:
    """Return at most ``MAX_STEPS`` of the paths, evenly spaced, including the first and the last."""
    if len(paths) <= MAX_STEPS:
        return paths
    return [paths[round(index * (len(paths) - 1) / (MAX_STEPS - 1))] for index in range(MAX_STEPS)]


def _read_picture(path: Path, caption: str, limit: int, alt: str = "", min_width: int = 0) -> Iterator[Picture]:
    """Yield the picture, or nothing if the file is missing or truncated."""
    try:
        yield photo(path, caption, limit, alt, min_width)
    except UNREADABLE:
        return


def _read_texts(path: Path) -> dict[str, str]:
    """Return the text chunks of a PNG; empty if the file cannot be read."""
    try:
        with PIL.Image.open(path) as picture:
            return {str(key): value for key, value in picture.info.items() if isinstance(value, str)}
    except UNREADABLE:
        return {}
