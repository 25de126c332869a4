"""Kinds of annotation: what the stream marks for teachers, and checks of labeled masks before training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import semiseg
from semiseg.data import FolderDataset, Shapes, StreamConfig, TrainStream, resolve_split
from semiseg.data.mask_validation import count_pixels
from semiseg.data.splits.annotation_kind import Annotation, check_annotation
from semiseg.errors import UserError
from semiseg.training.resolve_config import resolve

QUICK = {"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "steps": 1, "workers": 0}
TRAIN = QUICK | {"accelerator": "cpu", "labeled": "4"}


def test_stream_marks_pixels_to_fill(tiny_folder: Path) -> None:
    for path in sorted((tiny_folder / "masks").iterdir()):
        mask = np.array(Image.open(path))
        mask[:, :24] = 255
        Image.fromarray(mask).save(path)
    dataset = FolderDataset(tiny_folder)
    split = resolve_split(dataset, "4", 0)
    config = StreamConfig(batch_size=4, crop_size=80, unlabeled_batch_size=4, scale_max=1.0)
    full = TrainStream(dataset, split.labeled, split.unlabeled, config)[0]
    part = TrainStream(dataset, split.labeled, split.unlabeled, replace(config, fill=True))[0]
    assert full.fill.shape == (0, 80, 80) and torch.equal(full.masks, part.masks)
    assert torch.equal(part.fill, (part.masks == 255) & part.labeled_valid)
    shares = part.fill.sum((1, 2)) / part.labeled_valid.sum((1, 2))
    assert ((shares > 0.45) & (shares < 0.55)).all()  # half of each image, without the padding


# Checks before training.


def save(folder: Path, id: str, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{id}.png")


def labeled_of(folder: Path) -> tuple[str, ...]:
    return resolve_split(FolderDataset(folder), "4", 0).labeled


def test_single_positive_masks_with_other_class_counts_fail(tiny_folder: Path, tmp_path: Path) -> None:
    first, *others = labeled_of(tiny_folder)
    for number, id in enumerate(others):
        save(tiny_folder, id, np.where(np.arange(48) < 24, number, 255)[None].repeat(48, 0))
    for values, found in [((1, 4), "circle, star"), ((255, 255), "none")]:
        save(tiny_folder, first, np.where(np.arange(48) < 24, *values)[None].repeat(48, 0))
        with pytest.raises(
            UserError, match=rf"{first}\.png: a single-positive mask shows one class, but this one shows {found}"
        ):
            semiseg.train(tiny_folder, "supervised", tmp_path / "run", annotation="single-positive", **TRAIN)
    assert not (tmp_path / "run").exists()


def test_check_annotation_reports_share_of_annotated_pixels(tiny_folder: Path) -> None:
    def notes(annotation: Annotation) -> list[str]:
        dataset, labeled = FolderDataset(tiny_folder), labeled_of(tiny_folder)
        return check_annotation(dataset, labeled, count_pixels(dataset, labeled), annotation)

    assert notes("full") == []
    (note,) = notes("partial")
    assert "100.0% of the pixels of labeled images are annotated. Warning: unknown pixels must be 255" in note
    remove_annotation(tiny_folder)
    (note,) = notes("full")
    assert note.startswith("warning: 25.0% of the pixels of labeled images are annotated, which looks like partial")
    assert notes("partial") == ["partial annotation: 25.0% of the pixels of labeled images are annotated"]


@pytest.mark.slow
def test_run_logs_share_of_annotated_pixels(tiny_folder: Path, tmp_path: Path) -> None:
    remove_annotation(tiny_folder)
    run = semiseg.train(tiny_folder, "dual-student", tmp_path / "run", annotation="partial", val_every="never", **TRAIN)
    log = (run / "log.txt").read_text()
    assert "partial annotation: 25.0% of the pixels of labeled images are annotated\n" in log and "looks" not in log
    assert "dual-student has no teacher that fills in unannotated pixels" in log


def remove_annotation(folder: Path) -> None:
    """Keep a quarter of the annotation of every labeled image."""
    for id in labeled_of(folder):
        mask = np.array(Image.open(folder / "masks" / f"{id}.png"))
        mask[:, 12:] = 255
        save(folder, id, mask)


def test_unknown_annotation_kind_fails() -> None:
    with pytest.raises(UserError, match=r"'weak' is not allowed\. Give full or partial or single-positive"):
        resolve({"annotation": "weak"})


def test_shapes_have_no_tags() -> None:
    dataset = Shapes(images=2, val=1, test=1, size=48)
    assert dataset.tags(dataset.ids[0]) is None
