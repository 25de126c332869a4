"""Evaluate a trained model."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from semiseg.data import open_dataset
from semiseg.data.dataset import SegmentationDataset
from semiseg.errors import UserError, lookup
from semiseg.inference.evaluation import evaluate_networks
from semiseg.tools.models.trained_model import Model, load
from semiseg.training.run_directory import RunDirectory


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
        keep(model.run / "evaluations.jsonl", json.dumps(result | {"data": source}) + "\n")
    return result


def keep(path: Path, line: str) -> None:
    """Append a line of figures to a file, whole or not at all; where that cannot be, say so, and go on."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, size)  # the next line would be joined to half a one
        print(f"warning: {path}: the figures are not kept there ({error.strerror})", file=sys.stderr)
