"""Evaluate all networks of a trained model."""

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
from semiseg.inference.metrics import named
from semiseg.tools.models.trained_model import Model, load
from semiseg.training.run_directory import RunDirectory


def evaluation_ids(model: Model, dataset: SegmentationDataset, data: str, split: str) -> tuple[str, ...]:
    """Return the ids of a split: from the lists of the run for the data it was trained on, else from the data set.

    Raises:
        UserError: The data has no such list.
    """
    if model.run and data == model.config.data and (model.run / "splits").is_dir():
        lists = RunDirectory(model.run).read_split(dataset)
        named = {"test": lists.test, "val": lists.val, "labeled": lists.labeled}
        ids: tuple[str, ...] | None = lookup("split", split, named)
        if split == "test" and not ids:  # a test list may have been added after training
            ids = dataset.split(split)
            if seen := {*lists.labeled, *lists.unlabeled, *lists.val}.intersection(ids or ()):
                problem = f"contains {min(seen)!r}, which this run was trained on"
                raise UserError(problem, path=f"{data}/splits/test.txt", fix="remove it from the list")
    else:
        ids = dataset.split(split)
    if not ids:
        raise UserError(f"no {split} list", path=data, fix=f"add splits/{split}.txt or choose --split val")
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
    """Evaluate every network of a trained model at the resolution of the masks.

    The result is appended to ``evaluations.jsonl`` of the run.

    Args:
        path: A run directory, a checkpoint, or an export as safetensors.
        data: A data set. Defaults to the data of the run.
        split: ``test``, ``val`` or ``labeled``.
        network: The network whose figures come first. Defaults to the default network of the method.
        checkpoint: ``best`` or ``last``.
        sliding: Use a sliding window of the training crop size.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Returns:
        ``split, network, miou, pixel_accuracy, iou`` of ``network`` in percent, also ``dice``, ``precision``,
        ``recall`` and ``boundary_iou`` by class with their means (``mean_dice``, ...), ``checkpoint``, ``step``,
        ``sliding``, and ``networks``, the same figures for all networks.

    Raises:
        UserError: The checkpoint, data, list or network does not exist, or the classes differ.
    """
    model = load(path, network, checkpoint, accelerator)
    source = str(data or model.config.data)
    if Path(source).is_dir() and Path(source).resolve() == Path(model.config.data).resolve():
        source = model.config.data  # another spelling of the same path
    dataset = open_dataset(source)
    if dataset.classes != model.classes:
        theirs, ours = ", ".join(dataset.classes), ", ".join(model.classes)
        problem = f"its classes ({theirs}) differ from those of the model ({ours})"
        raise UserError(problem, path=source, fix="pass data with the same classes")
    evaluation = evaluate_networks(
        model.networks,
        dataset,
        evaluation_ids(model, dataset, source, split),
        device=model.device,
        image_scale=model.config.image_scale,
        mode="slide" if sliding else "whole",
        crop_size=model.config.crop_size,
        boundaries=True,
    )
    networks = {
        name: matrix.summary(dataset.classes)
        | matrix.details(dataset.classes)
        | named("boundary_iou", dataset.classes, evaluation.boundaries[name].iou())
        for name, matrix in evaluation.matrices.items()
    }
    chosen = lookup("network", model.network, networks)
    where = {"split": split, "network": model.network, "checkpoint": model.path.stem, "step": model.step}
    result = where | {"sliding": sliding} | chosen | {"networks": networks}
    if model.run:
        append_line(model.run / "evaluations.jsonl", json.dumps(result | {"data": source}) + "\n")
    return result


def append_line(path: Path, line: str) -> None:
    """Append a line to a file; if that fails, restore the file and print a warning."""
    size = path.stat().st_size if path.is_file() else 0
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, size)  # remove the partial line
        print(f"warning: {path}: the result is not saved ({error.strerror})", file=sys.stderr)
