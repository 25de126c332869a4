"""Evaluate all networks of a trained model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.dataset_split import Split, read_split
from semiseg.errors import UserError, lookup
from semiseg.inference.evaluation import evaluate_networks
from semiseg.inference.metrics import named
from semiseg.tools.models.trained_model import Model, load
from semiseg.training.run_data import open_run_data, same_data
from semiseg.training.run_directory import RunDirectory


class EvaluatedImages(NamedTuple):
    """The images of an evaluation, the name of their list, and whether the list is one of the run's own."""

    split: str
    ids: tuple[str, ...]
    own: bool


def run_lists(model: Model, dataset: SegmentationDataset, data: str) -> Split | None:
    """Return the lists of the model's run, or None if ``dataset`` is not the data of the run.

    Other data than ``--data`` of the run are its data at a new path if they contain all listed images.

    Raises:
        UserError: A listed image is missing in the run's own data.
    """
    if model.run is None or not (model.run / "splits").is_dir():
        return None
    try:
        return RunDirectory(model.run).read_split(dataset, unlabeled=False)
    except UserError:
        if same_data(data, model.config.data):
            raise
        return None


def evaluated_images(model: Model, dataset: SegmentationDataset, data: str, split: str | None) -> EvaluatedImages:
    """Return the images of a list: of the run for the data it was trained on, else of the data set.

    Args:
        model: The model.
        dataset: The data.
        data: Their name.
        split: ``test``, ``val`` or ``labeled``. None: ``test``, or ``val`` if there is no test list.

    Raises:
        UserError: The data has no such list.
    """
    lists = run_lists(model, dataset, data)
    own = lists is not None
    name = split or "test"
    ids: tuple[str, ...] | None = None
    if lists is not None:
        ids = lookup("split", name, {"test": lists.test, "val": lists.val, "labeled": lists.labeled})
    if lists is None or (name == "test" and not ids):  # a test list may have been added after training
        ids = dataset.split(name)
        if lists is not None and model.run and ids:
            trained = read_split(model.run / "splits")
            if seen := {*trained.labeled, *trained.unlabeled, *trained.val}.intersection(ids):
                problem = f"contains {min(seen)!r}, which this run was trained on"
                raise UserError(problem, path=f"{data}/splits/test.txt", fix="remove it from the list")
    if not ids and split is None:
        return evaluated_images(model, dataset, data, "val")
    if not ids:
        fix = f"add splits/{name}.txt" + (" or choose --split val" if name == "test" else "")
        raise UserError(f"no {name} list", path=data, fix=fix)
    return EvaluatedImages(name, ids, own)


def evaluate(
    path: str | Path,
    data: str | Path | None = None,
    split: str | None = None,
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
        data: A data set. Defaults to the data of the run. If it contains all listed images of the run, it is the data
            of the run at a new path, and the lists of the run apply.
        split: ``test``, ``val`` or ``labeled``. Default: ``test``, or ``val`` if there is no test list.
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
    dataset = open_run_data(model.config, path, data)
    if dataset.classes != model.classes and not (model.published and same_benchmark(dataset.classes, model.classes)):
        theirs, ours = ", ".join(dataset.classes), ", ".join(model.classes)
        problem = f"its classes ({theirs}) differ from those of the model ({ours})"
        raise UserError(problem, path=source, fix="pass data with the same classes")
    images = evaluated_images(model, dataset, source, split)
    if split is None and images.split != "test":
        print(f"{source}: no test list, using {images.split}", file=sys.stderr)
    if data is not None and images.own and not same_data(source, model.config.data):
        print(f"{model.run}: using its own {images.split} list for {source}", file=sys.stderr)
    evaluation = evaluate_networks(
        model.networks,
        dataset,
        images.ids,
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
    where = {"split": images.split, "network": model.network, "checkpoint": model.path.stem, "step": model.step}
    result = where | {"sliding": sliding} | chosen | {"networks": networks}
    if model.run:
        append_line(model.run / "evaluations.jsonl", json.dumps(result | {"data": source, "own": images.own}) + "\n")
    return result


def same_benchmark(classes: Sequence[str], published: Sequence[str]) -> bool:
    """Return whether class names mean those of a published network: case differs, or names are class1, class2, ..."""
    numbered = [f"class{value}" for value in range(1, len(published) + 1)]  # ADE20K without objectInfo150.txt
    return [name.lower() for name in classes] in ([name.lower() for name in published], numbered)


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
