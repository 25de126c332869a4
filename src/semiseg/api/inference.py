"""Evaluate a trained model, and predict with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from semiseg.api.model import Model, load
from semiseg.data import open_dataset
from semiseg.data.dataset import Color, SegmentationDataset
from semiseg.data.images import IMAGE_SUFFIXES, list_files, read_image_file, reason
from semiseg.errors import UserError, lookup, printable
from semiseg.evaluation.evaluate import evaluate_networks
from semiseg.evaluation.predictor import Prediction
from semiseg.report.pictures import overlay as blended
from semiseg.report.pictures import save_indexed_png, save_picture
from semiseg.training.run_directory import RunDirectory

Plan = dict[Path, dict[str, Path]]
"""The files to write for each image, by kind."""


def evaluation_ids(model: Model, dataset: SegmentationDataset, data: str, split: str) -> tuple[str, ...]:
    """The images of a split: the run's own lists for the run's own data, else the data set's.

    Raises:
        UserError: the data has no such list.
    """
    if model.run and data == model.config.data and (model.run / "splits").is_dir():
        lists = RunDirectory(model.run).read_split(dataset)
        named = {"test": lists.test, "val": lists.val, "labeled": lists.labeled}
        ids: tuple[str, ...] | None = lookup("split", split, named)
        if split == "test" and not ids:  # the run began without one: one that has been added since will do
            ids = dataset.split(split)
            if seen := {*lists.labeled, *lists.unlabeled, *lists.val}.intersection(ids or ()):
                raise UserError(f"{data}: splits/test.txt names {min(seen)!r}, which this run trained on: take it out")
    else:
        ids = dataset.split(split)
    if not ids:
        raise UserError(f"{data}: no {split} list: add splits/{split}.txt, or choose --split val")
    return ids


def evaluate(
    path: str | Path,
    data: str | Path | None = None,
    split: str = "test",
    *,
    network: str | None = None,
    checkpoint: str = "best",
    sliding: bool = False,
    accelerator: str = "auto",
) -> dict[str, Any]:
    """Evaluate every network of a trained model exactly, at the masks' own resolution, in percent.

    Returns:
        ``split, network, miou, pixel_accuracy, iou`` of ``network`` (default: the method's), ``checkpoint``, ``step``,
        and ``networks``, the same figures for all. A run keeps what was asked in its ``evaluations.jsonl``.

    Raises:
        UserError: no such checkpoint, data, list or network, or classes that differ.
    """
    model = load(path, network, checkpoint, accelerator)
    source = str(data or model.config.data)
    if Path(source).is_dir() and Path(source).resolve() == Path(model.config.data).resolve():
        source = model.config.data  # the same place, written in another way: the run's own lists hold
    dataset = open_dataset(source)
    if dataset.classes != model.classes:
        theirs, ours = ", ".join(dataset.classes), ", ".join(model.classes)
        raise UserError(f"{source}: its classes ({theirs}) are not the model's ({ours}): take data of its classes")
    evaluation = evaluate_networks(
        model.networks,
        dataset,
        evaluation_ids(model, dataset, source, split),
        device=model.device,
        image_scale=model.config.image_scale,
        mode="slide" if sliding else "whole",
        crop_size=model.config.crop_size,
    )
    networks = {name: matrix.summary(dataset.classes) for name, matrix in evaluation.matrices.items()}
    chosen = lookup("network", model.network, networks)
    where = {"split": split, "network": model.network, "checkpoint": model.path.stem, "step": model.step}
    result = where | {"sliding": sliding} | chosen | {"networks": networks}
    if model.run:
        with open(model.run / "evaluations.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(result | {"data": source}) + "\n")
    return result


def predict(
    path: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    network: str | None = None,
    checkpoint: str = "best",
    overlay: bool = False,
    confidence: bool = False,
    sliding: bool = False,
    skip_existing: bool = False,
    accelerator: str = "auto",
) -> list[Path]:
    """Write ``OUT/<stem>.png``, an indexed mask with palette at the image's size, for every image; return the masks.

    An image of several that cannot be read is told on stderr, in a line; all others are predicted before the error.

    Args:
        path: a run or a checkpoint.
        images: image files, and directories of such.
        out: a directory; existing files are not overwritten.
        network: the network to ask.
        checkpoint: ``best`` or ``last``.
        overlay: write ``OUT/<stem>_overlay.png`` too.
        confidence: write ``OUT/<stem>_confidence.png`` too, gray, 255 for certainty.
        sliding: use a sliding window of the training's crop size.
        skip_existing: write only what is not there yet; otherwise a file that is there is an error.
        accelerator: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: no image, two of one stem, an output that exists, or, at the end, images that cannot be read.
    """
    model = load(path, network, checkpoint, accelerator)
    predictor = model.make_predictor(model.network, "slide" if sliding else "whole")
    found = collect_images([images] if isinstance(images, (str, Path)) else images)
    kinds = ["", *(["_overlay"] if overlay else []), *(["_confidence"] if confidence else [])]
    out = Path(out)
    todo = plan_files(found, kinds, out, skip_existing)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}): choose another --out") from None
    written, failed = [], 0
    for source, files in todo.items():
        try:
            image = read_image_file(source)
        except UserError as error:
            if len(found) == 1:
                raise
            print(f"{printable(str(error))}; skipped", file=sys.stderr)
            failed += 1
            continue
        write_prediction(predictor(image), image, model.palette, files)
        written += [file for kind, file in files.items() if not kind]
    if failed:
        raise UserError(
            f"{failed} of {len(found)} images cannot be read, see above, and have no mask in {out}; all others have: "
            "mend or remove these, and run it again with --skip-existing"
        )
    return written


def plan_files(found: Mapping[str, Path], kinds: Iterable[str], out: Path, skip_existing: bool) -> Plan:
    """Return what is to be written for each image: by kind ("", _overlay, _confidence), the file.

    Args:
        found: the images, by stem.
        kinds: what is asked for.
        out: the directory.
        skip_existing: whether to leave out what is there; otherwise it is an error.

    Raises:
        UserError: a file exists, or would be written for two images.
    """
    owners: dict[Path, Path] = {}
    todo: Plan = {}
    for stem, source in found.items():
        for kind in kinds:
            file = out / f"{stem}{kind}.png"
            if owners.setdefault(file, source) != source:
                raise UserError(f"{file}: would be written for two images: predict them into folders of their own")
            if not file.exists():
                todo.setdefault(source, {})[kind] = file
            elif not skip_existing:
                raise UserError(f"{file} exists: choose another --out, or go on by --skip-existing")
    return todo


def write_prediction(
    prediction: Prediction, image: Tensor, palette: Sequence[Color], files: Mapping[str, Path]
) -> None:
    """Write the kinds of pictures that ``files`` names, each whole or not at all.

    Raises:
        UserError: one cannot be written.
    """
    mask = prediction.mask.cpu()
    gray = (prediction.confidence * 255).round().to(torch.uint8).cpu().numpy()
    for kind, file in files.items():
        try:
            if kind == "_overlay":
                save_picture(blended(image, mask, palette), file)
            elif kind == "_confidence":
                save_picture(PIL.Image.fromarray(gray), file)
            else:
                save_indexed_png(mask, palette, file)
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({reason(error)}): choose another --out, or rename") from None


def collect_images(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Map the stem of every image file in ``paths`` (files and directories) to its path.

    Raises:
        UserError: a missing path, no image at all, or two images of one stem.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or directory: check the path")
        files = list_files(path, IMAGE_SUFFIXES) if path.is_dir() else {path.stem: path}
        for stem, file in files.items():
            if found.setdefault(stem, file) != file:
                raise UserError(f"{file}: {found[stem]} has the same stem, and one mask would overwrite the other")
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: no images there (looked for {', '.join(IMAGE_SUFFIXES)})")
    return found
