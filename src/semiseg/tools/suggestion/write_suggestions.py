"""Write suggested images: lists, draft masks for annotation tools, and contact sheets."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from torch import Tensor

from semiseg.data.dataset import IGNORE, Color, SegmentationDataset
from semiseg.data.splits.list_files import write_list
from semiseg.data.splits.make_splits import link_image
from semiseg.inference.formats.label_studio_results import write_label_studio
from semiseg.inference.formats.labelme_results import labels_text, write_labelme
from semiseg.tools.models.trained_model import Model
from semiseg.tools.suggestion.contact_sheet import contact_sheet, panels
from semiseg.tools.suggestion.draft_masks import Mask, write_cvat
from semiseg.tools.suggestion.ranking import Choice
from semiseg.tools.suggestion.uncertainty import Measurements
from semiseg.visualization.mask_pictures import Picture, save_indexed_png, save_picture

SHEET = 40  # suggestions on one contact sheet


@dataclass(frozen=True)
class Suggestion:
    """An image to annotate.

    Attributes:
        id: Its id.
        score: Its score in the ranking; higher is better; only comparable within one call.
        uncertainty: Uncertainty of the student, in [0, 1].
        disagreement: Disagreement of the teachers, in [0, 1].
        distance: Cosine distance in [0, 2] to the nearest image that is annotated or suggested before it.
        classes: Classes that the student predicts in it, the largest first.
    """

    id: str
    score: float
    uncertainty: float
    disagreement: float
    distance: float
    classes: tuple[str, ...]


def describe(measurements: Measurements, choice: Choice, classes: Sequence[str]) -> tuple[Suggestion, ...]:
    """Return the chosen images with their measurements and classes."""
    found = []
    for index, score, distance in zip(choice.indices, choice.scores, choice.distances, strict=True):
        shares = measurements.shares[index]
        predicted = tuple(classes[k] for k in shares.argsort()[::-1] if shares[k] > 0)
        numbers = float(measurements.uncertainty[index]), float(measurements.disagreement[index]), distance
        found.append(Suggestion(measurements.ids[index], score, *numbers, predicted))
    return tuple(found)


def write_suggestions(
    folder: Path, model: Model, dataset: SegmentationDataset, suggestions: Sequence[Suggestion], labelme: bool = False
) -> None:
    """Write ``suggestions.txt``, ``suggestions.csv``, images, draft masks in several formats, and contact sheets.

    Args:
        folder: An existing directory with the directories ``images`` and ``masks``.
        model: The model that predicts the draft masks.
        dataset: Data set of the images.
        suggestions: The images, best first.
        labelme: Whether to write a file of LabelMe beside each image, and ``labels.txt``.
    """
    write_list(folder / "suggestions.txt", [one.id for one in suggestions])
    _write_csv(folder / "suggestions.csv", suggestions)
    masks: dict[str, Mask] = {}
    files: dict[str, str] = {}
    entries: dict[str, list[Picture]] = {}
    for rank, one in enumerate(suggestions, 1):
        image = dataset.read_image(one.id)
        mask, confidence = model(image)
        masks[one.id] = mask.cpu().numpy()
        files[one.id] = link_image(dataset, one.id, folder / "images").relative_to(folder / "images").as_posix()
        write_draft(folder / "masks" / f"{one.id}.png", mask, model.palette, dataset.file_values)
        if labelme:
            target = (folder / "images" / files[one.id]).with_suffix(".json")
            write_labelme(target, Path(files[one.id]).name, masks[one.id], model.classes)
        entries[f"{rank}. {one.id}"] = panels(image, mask.cpu(), confidence, model.palette, model.classes)
    if labelme:
        (folder / "images" / "labels.txt").write_text(labels_text(model.classes), encoding="utf-8")
    write_cvat(folder / "cvat.zip", masks, model.classes, model.palette)
    tasks = ((id, f"images/{files[id]}", mask) for id, mask in masks.items())
    write_label_studio(folder / "label-studio.json", tasks, model.classes, model.palette)
    for number, start in enumerate(range(0, len(entries), SHEET)):
        name = f"contact-sheet-{number + 1}.png" if number else "contact-sheet.png"
        sheet = dict(list(entries.items())[start : start + SHEET])
        save_picture(contact_sheet(sheet, model.classes, model.palette), folder / name)


def write_draft(path: Path, mask: Tensor, palette: Sequence[Color], values: Sequence[int]) -> None:
    """Write a mask of class indices as indexed PNG, or as gray PNG with the values that mask files of the data use."""
    if not values:
        return save_indexed_png(mask, palette, path)
    kind = np.uint8 if max(values) <= IGNORE else np.uint16
    save_picture(PIL.Image.fromarray(np.array(values, dtype=kind)[mask.cpu().numpy()]), path)


def _write_csv(path: Path, suggestions: Sequence[Suggestion]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["rank", "image", "score", "uncertainty", "disagreement", "distance", "classes"])
        for rank, one in enumerate(suggestions, 1):
            numbers = (one.score, one.uncertainty, one.disagreement, one.distance)
            table.writerow([rank, one.id, *(f"{number:.6g}" for number in numbers), "; ".join(one.classes)])
