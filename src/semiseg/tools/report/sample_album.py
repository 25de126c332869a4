"""The pictures a run kept in ``samples/``, for its page; what is missing or cannot be read is left out."""

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

MOST_SAMPLES = 4
MOST_TIMES = 12  # of a strip; a run of many validations shows some, spread evenly, the first and the last among them
CELL_LIMIT, SAMPLE_LIMIT = 25_000, 150_000  # bytes, so that a page with all its pictures stays under 5 MB
CELLS = {
    "image": "image",
    "truth": "truth",
    "prediction": "prediction",
    "wrong": "wrong in red",
    "confidence": "confidence, white: sure",
}
GROUPS = {"best": "Best", "worst": "Worst", "random": "Drawn at random"}


def predictions(run: RunFiles) -> Section:
    """Return the best, the worst and random predictions of val, each with its file's name and mIoU."""
    blocks: list[Block] = []
    for group, title in GROUPS.items():
        for folder in sorted((run.path / "samples" / "val").glob(f"{group}-*")):
            about = _about(folder / "image.png")
            name = about.get("id", folder.name)
            cells = [
                picture
                for key, text in CELLS.items()
                for picture in _read(folder / f"{key}.png", text, CELL_LIMIT, alt=f"{name}: {text}")
            ]
            figure = f", mIoU {about['miou']} %" if "miou" in about else ""
            blocks += [Strip(f"{title}: {name}{figure}", cells)] if cells else []
    text = (
        f"Val images as the {run.default_network or 'network'} of the best checkpoint sees them. An image's mIoU is "
        "over the classes that its mask shows; neighbors in the list are not shown twice."
    )
    return Section("Predictions", text, [*blocks, *legend(run)] if blocks else [])


def pseudo_labels(run: RunFiles) -> Section:
    """Return a strip for each followed unlabeled image: the image, then its labels at each validation."""
    blocks: list[Block] = []
    for folder in sorted((run.path / "samples" / "pseudo-labels").glob("*_*")):
        name = _about(folder / "image.png").get("id", folder.name.partition("_")[2])
        cells = list(_read(folder / "image.png", "image", CELL_LIMIT, alt=name))
        for path in _some(sorted(path for path in folder.glob("*.png") if re.match(r"\d+_.", path.name))):
            step, _, network = path.stem.partition("_")
            trusted = _about(path).get("trusted")
            caption = f"step {int(step)}, {network}" + (f", {trusted} % trusted" if trusted else "")
            cells += _read(path, caption, CELL_LIMIT, alt=f"{name}: labels at {caption}")
        blocks += [Strip(name, cells)] if len(cells) > 1 else []
    text = (
        "How the labels of a few unlabeled images changed while training; time runs to the right. The network named "
        "labeled at that time; pale pixels are below its threshold and teach nothing. Nobody knows the truth here."
    )
    return Section("Pseudo-labels over time", text, [*blocks, *legend(run)] if blocks else [])


def samples(run: RunFiles) -> Section:
    """Return a few val images as every network saw them at the end."""
    chosen = evenly_spaced(run.samples, MOST_SAMPLES)
    pictures = [picture for path in chosen for picture in _read(path, path.stem, SAMPLE_LIMIT, at_least=860)]
    return Section("Samples", "Val images at the end of training: image, every network, ground truth.", pictures)


def legend(run: RunFiles) -> list[Legend]:
    """Return which color is which class, nothing where the run does not say."""
    try:
        content = json.loads((run.path / "samples" / "classes.json").read_text("utf-8"))
        entries = [(str(name), (int(r), int(g), int(b))) for name, (r, g, b) in zip(*content.values(), strict=True)]
    except (OSError, ValueError, TypeError, AttributeError):
        return []
    return [Legend(entries)]


def _some(paths: list[Path]) -> list[Path]:
    if len(paths) <= MOST_TIMES:
        return paths
    return [paths[round(index * (len(paths) - 1) / (MOST_TIMES - 1))] for index in range(MOST_TIMES)]


def _read(path: Path, caption: str, limit: int, alt: str = "", at_least: int = 0) -> Iterator[Picture]:
    """Yield the picture, or nothing: one that is missing, or cut short by a crash, is no reason to have no report."""
    try:
        yield photo(path, caption, limit, alt, at_least)
    except UNREADABLE:
        return


def _about(path: Path) -> dict[str, str]:
    """Return what a picture says of itself (PNG's texts)."""
    try:
        with PIL.Image.open(path) as picture:
            return {str(key): value for key, value in picture.info.items() if isinstance(value, str)}
    except UNREADABLE:
        return {}
