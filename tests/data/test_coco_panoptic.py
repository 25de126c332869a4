"""Tests of the importer of COCO panoptic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semiseg.data.importers import ForeignData, ImportOptions, detect_form, open_foreign
from trees import refused

SEGMENTS = np.repeat([[0, 7], [7 + 256 * 3, 65536 * 2 + 5]], 4, axis=0)
CATEGORIES = [{"id": 9, "name": "sky", "isthing": 0}, {"id": 2, "name": "car", "isthing": 1}]


def write_ids(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training images, of which one is annotated, and a val image of the same name."""
    for name in ("train/a", "train/b", "val/a"):
        path = tmp_path / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 8)).save(path)
    for name in ("train", "val"):
        write_ids(tmp_path / f"annotations/panoptic_{name}/a.png", SEGMENTS)
        info = [(7, 2), (7 + 256 * 3, 2), (65536 * 2 + 5, 9)]
        segments = [{"id": id, "category_id": category, "iscrowd": 0} for id, category in info]
        change(tmp_path, name, annotations=[{"image_id": 4, "file_name": "a.png", "segments_info": segments}])
    return tmp_path


def change(root: Path, name: str = "train", **changes: Any) -> None:
    content = {"images": [{"id": 4, "file_name": "a.jpg", "width": 2, "height": 8}], "categories": CATEGORIES}
    (root / f"annotations/panoptic_{name}.json").write_text(json.dumps(content | changes))


def read(root: Path) -> ForeignData:
    assert detect_form(root) == "coco-panoptic"
    return open_foreign(root, None, ImportOptions())


def test_segments_become_categories(root: Path) -> None:
    dataset = read(root)
    assert dataset.classes == ("car", "sky") and dataset.ids == ("train/a", "train/b", "val/a")
    expected = np.repeat([[255, 0], [0, 1]], 4, axis=0)
    for id in ("train/a", "val/a"):
        assert (dataset.read_mask(id).numpy() == expected).all()
    assert not dataset.has_mask("train/b")
    assert dataset.split("train") == ("train/a", "train/b") and dataset.split("val") == ("val/a",)


def test_malformed_files_raise_an_error(root: Path) -> None:
    for entries, words in (
        ([{"image_id": 4, "file_name": "a.png", "segments_info": [{"id": 7}]}], "not a COCO panoptic file"),
        ([{"image_id": 4, "file_name": "c.png", "segments_info": []}], "c.png was not found"),
        ([{"image_id": 5, "file_name": "c.png", "segments_info": []}], "c.png was not found"),
    ):
        change(root, annotations=entries)
        with refused("panoptic_train.json", words):
            open_foreign(root, "coco-panoptic", ImportOptions())


def test_unlisted_segments_raise_an_error(root: Path) -> None:
    write_ids(root / "annotations/panoptic_train/a.png", SEGMENTS + 1)
    with refused("panoptic_train/a.png", "segment 1 is not in segments_info"):
        read(root).read_mask("train/a")
