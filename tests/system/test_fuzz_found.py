"""Regression tests for malformed inputs, most of them found by fuzzing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_fuzz import COCO, HEADER, TASKS, to_json

from semiseg.data import Shapes, open_dataset
from semiseg.data.importers import ImportOptions
from semiseg.data.importers.shapes.coco import Coco
from semiseg.data.importers.shapes.label_studio import LabelStudio
from semiseg.data.importers.shapes.polygons import counts_region
from semiseg.data.palette_file import read_palette
from semiseg.data.splits.list_files import read_lines, read_permutation
from semiseg.data.tag_file import read_tags, write_tags
from semiseg.errors import UserError
from semiseg.tools.models.trained_model import read_checkpoint


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((6, 8, 3), 9, dtype=np.uint8)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


@pytest.mark.parametrize(
    "result",
    [
        5,
        ["x"],
        [{"value": 3}],
        [{"value": {"points": [], "polygonlabels": 7}}],
        [{"value": {"rle": [], "labels": {"a": 1}}}],
    ],
)
def test_label_studio_rejects_malformed_results(images: Path, result: Any) -> None:
    tasks = json.loads(to_json(TASKS))
    tasks[0]["annotations"][0]["result"] = result
    (images / "all.json").write_text(json.dumps(tasks))
    with pytest.raises(UserError, match=r"all\.json: "):
        LabelStudio(images, ImportOptions())


def test_label_studio_ignores_folder_named_like_an_export(images: Path) -> None:
    (images / "x.json").mkdir()
    with pytest.raises(UserError, match="no JSON or CSV export"):
        LabelStudio(images, ImportOptions())
    with pytest.raises(UserError):
        open_dataset(images)


@pytest.mark.parametrize(("part", "key"), [("categories", "id"), ("images", "width")])
def test_coco_rejects_infinite_numbers(images: Path, part: str, key: str) -> None:
    content = json.loads(to_json(COCO))
    content[part][0][key] = float("inf")
    (images / "all.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"all\.json: "):
        Coco(images, ImportOptions())


@pytest.mark.parametrize(
    ("key", "value"), [("classes", 3), ("palette", [[0, 0]]), ("palette", 4), ("config", []), ("step", "x")]
)
def test_checkpoint_with_malformed_header(tmp_path: Path, key: str, value: Any) -> None:
    torch.save(HEADER | {"method": {}, key: value}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x\.pt: not a checkpoint of semiseg"):
        read_checkpoint(tmp_path / "x.pt")


def test_run_lengths_and_pickles_of_unbounded_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than 60 bits"):
        counts_region("o" * 1_000_000, None, 6, 8)
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02Nr\xff\xff\xff\x7f.")
    with pytest.raises(UserError, match="refused"):
        read_permutation(tmp_path / "x.pkl")


def test_line_ends_and_very_long_lines(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a\x0cb\r\nc\u2028d\n", encoding="utf-8")
    assert read_lines(tmp_path / "l.txt") == ("a\x0cb", "c\u2028d")
    for text in ("tree 0 " + "1" * 5000 + " 0", "tree" + " " * 50_000):
        (tmp_path / "p.txt").write_text(text)
        with pytest.raises(UserError):
            read_palette(tmp_path / "p.txt")


def test_tags_of_a_class_named_image(tmp_path: Path) -> None:
    write_tags(tmp_path / "tags.csv", ("car", "image"), {"a": (1, 0)})
    assert read_tags(tmp_path / "tags.csv", ("car", "image"), ("a",)) == {"a": (1, 0)}


@pytest.mark.parametrize("key", ["images", "val", "test"])
def test_shapes_limits_the_number_of_images(key: str) -> None:
    with pytest.raises(UserError, match=r"shapes: a number is out of range\. Give 1 to 1000000 images"):
        Shapes.from_text(f"{key}=2552552552")
