"""Tests of the Hugging Face reader: data written by save_to_disk, columns, class names and errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import Array2D, ClassLabel, Dataset, DatasetDict, Features, List, Value
from numpy.typing import NDArray
from PIL import Image

import semiseg
import semiseg.data
from semiseg.data import check_masks, read_image_file, resolve_split
from semiseg.data.importers import ImportOptions, open_foreign
from semiseg.data.importers.huggingface import HuggingFace
from trees import refused, write_lines

NESTED = List(List(ClassLabel(names=["sea", "land", "ice"])))


def open_dataset(text: str) -> HuggingFace:
    data = open_foreign(text, None, ImportOptions())
    assert isinstance(data, HuggingFace)
    return data


def image(seed: int, size: tuple[int, int] = (24, 32)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def mask(seed: int, size: tuple[int, int] = (24, 32)) -> NDArray[np.uint8]:
    values = np.random.default_rng(seed).integers(0, 3, size, dtype=np.uint8)
    values[0] = 255
    return values


def table(count: int, without: tuple[int, ...] = (), start: int = 0, kind: Any = None, **names: str) -> Dataset:
    """Return rows of images and masks. Masks are images unless ``kind`` is given, and null in the rows ``without``."""
    numbers = range(start, start + count)
    masks = [None if i in without else mask(i).tolist() if kind else Image.fromarray(mask(i)) for i in numbers]
    columns = {
        names.get("image", "image"): [Image.fromarray(image(i)) for i in numbers],
        names.get("mask", "mask"): masks,
        "name": [f"row {i}" for i in numbers],
    }
    features = [datasets.Image(), kind or datasets.Image(), Value("string")]
    return Dataset.from_dict(columns, features=Features(dict(zip(columns, features, strict=True))))


def save(root: Path, data: Any) -> str:
    data.save_to_disk(str(root))
    return f"hf:{root}"


def test_images_masks_and_lists(tmp_path: Path) -> None:
    parts = {
        "train": table(4, without=(1, 3)),
        "validation": table(3, without=(12,), start=10),
        "test": table(2, start=20),
    }
    dataset = open_dataset(save(tmp_path / "data", DatasetDict(parts)))
    assert isinstance(dataset, HuggingFace) and dataset.root == tmp_path / "data"
    assert dataset.ids == ("test-000000", "test-000001", *(f"train-{i:06d}" for i in range(4)),
                           *(f"validation-{i:06d}" for i in range(3)))  # fmt: skip
    assert dataset.classes == ("class0", "class1", "class2")
    for id, seed in (("train-000000", 0), ("train-000002", 2), ("validation-000001", 11), ("test-000000", 20)):
        assert (dataset.read_image(id).permute(1, 2, 0).numpy() == image(seed)).all()
        assert (dataset.read_mask(id).numpy() == mask(seed)).all()
    split = resolve_split(dataset, None, 0)
    assert split.labeled == ("train-000000", "train-000002") and split.unlabeled == ("train-000001", "train-000003")
    assert split.val == ("validation-000000", "validation-000001") and split.test == ("test-000000", "test-000001")


def test_class_names_from_features(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "data", table(3, kind=List(List(Value("int64"))))))
    assert dataset.classes == ("class0", "class1", "class2") and (dataset.read_mask("train-000001") == 255).sum() == 32
    rows = table(1, kind=List(List(Value("int32"))))
    values = [[[2, 0], [1, 1]]]
    named = Dataset.from_dict({"image": rows["image"][:], "mask": values}, features=Features(
        image=datasets.Image(), mask=NESTED))  # fmt: skip
    dataset = open_dataset(save(tmp_path / "named", named))
    assert dataset.classes == ("sea", "land", "ice") and dataset.read_mask("train-000000").tolist() == values[0]


def test_class_names_from_a_file(tmp_path: Path) -> None:
    data = save(tmp_path / "data", table(3))
    (tmp_path / "data" / "id2label.json").write_text(json.dumps({"0": "sea", "2": "ice", "1": "land"}))
    assert open_dataset(data).classes == ("sea", "land", "ice")
    write_lines(tmp_path / "data" / "classes.txt", "a", "b")
    dataset = open_dataset(data)
    assert dataset.classes == ("a", "b")
    with refused("hf:", "train-000000", "value 2 is not one of the 2 classes"):
        check_masks(dataset, ["train-000000"])
    (tmp_path / "data" / "classes.txt").unlink()
    (tmp_path / "data" / "id2label.json").write_text('{"1": "a"}')
    with refused("id2label.json", "'0' is missing"):
        open_dataset(data)


def test_masks_as_two_dimensional_arrays(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "data", table(2, kind=Array2D((24, 32), "uint8"))))
    assert (dataset.read_mask("train-000001").numpy() == mask(1)).all()


def test_choice_of_columns(tmp_path: Path) -> None:
    rows = table(3, image="photo", mask="truth").add_column("label", [0, 1, 0])
    data = save(tmp_path / "data", rows)
    dataset = open_dataset(f"{data}:photo,truth")
    assert (dataset.read_mask("train-000001").numpy() == mask(1)).all() and dataset.name == data
    for columns in ("", ":photo,label", ":photo,gone", ":gone,truth", ":photo,photo", ":name,truth"):
        with refused(data, "photo, truth, name, label", ":IMAGE_COLUMN,MASK_COLUMN"):
            open_dataset(data + columns)
    usual = save(tmp_path / "usual", table(3, image="pixel_values", mask="label"))
    assert (open_dataset(usual).read_mask("train-000002").numpy() == mask(2)).all()


def test_split_without_mask_column_is_unlabeled(tmp_path: Path) -> None:
    parts = {"train": table(3), "unlabeled": table(2, start=30).remove_columns("mask")}
    dataset = open_dataset(save(tmp_path / "data", DatasetDict(parts)))
    split = resolve_split(dataset, None, 0)
    assert split.unlabeled == ("unlabeled-000000", "unlabeled-000001") and len(split.labeled + split.val) == 3
    assert (dataset.read_image("unlabeled-000001").permute(1, 2, 0).numpy() == image(31)).all()


def test_lists_in_splits_folder(tmp_path: Path) -> None:
    data = save(tmp_path / "data", table(6))
    write_lines(tmp_path / "data/splits/val.txt", "train-000005")
    write_lines(tmp_path / "data/splits/1_4/seed0/labeled.txt", "train-000001")
    write_lines(tmp_path / "data/splits/1_4/seed0/unlabeled.txt", "train-000002", "train-000003")
    split = resolve_split(open_dataset(data), "1/4", 0)
    assert (split.labeled, split.val) == (("train-000001",), ("train-000005",))
    assert split.unlabeled == ("train-000002", "train-000003")
    assert "train-000005" not in resolve_split(open_dataset(data), "2", 1).unlabeled


def test_selection_of_rows(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "data", table(6, without=(4,)).select([5, 4, 0])))
    assert [dataset.has_mask(id) for id in dataset.ids] == [True, False, True]
    assert (dataset.read_mask("train-000000").numpy() == mask(5)).all()


def test_images_in_files(tmp_path: Path) -> None:
    paths = []
    for index in range(2):
        paths.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(image(index)).save(paths[-1])
    rows = {"image": paths, "mask": [Image.fromarray(mask(0)), Image.fromarray(np.repeat(mask(1)[..., None], 3, 2))]}
    data = Dataset.from_dict(rows, features=Features(image=datasets.Image(), mask=datasets.Image()))
    dataset = open_dataset(save(tmp_path / "data", data))
    assert (dataset.read_image("train-000001") == read_image_file(paths[1])).all()
    assert (dataset.read_mask("train-000001").numpy() == mask(1)).all()  # three equal channels


def test_malformed_rows_raise_an_error(tmp_path: Path) -> None:
    def opened(name: str, image_value: Any, mask_value: Any, kind: Any = None) -> HuggingFace:
        features = Features(image=datasets.Image(), mask=kind or datasets.Image())
        columns = {"image": [Image.fromarray(image(0)), image_value], "mask": [None, mask_value]}
        root = tmp_path / name
        data = save(root, Dataset.from_dict(columns, features=features))
        write_lines(root / "classes.txt", "a", "b", "c")
        dataset = open_dataset(data)
        assert isinstance(dataset, HuggingFace)
        return dataset

    good, colors = Image.fromarray(image(1)), Image.fromarray(image(2))
    numbers = List(List(Value("int64")))
    for dataset, words in (
        (opened("size", good, Image.fromarray(mask(1, (5, 6)))), "the mask is 6x5"),
        (opened("colors", good, colors), "shape (24, 32, 3)"),
        (
            opened("broken", {"bytes": b"no png", "path": None}, Image.fromarray(mask(1))),
            "the image cannot be read",
        ),
        (opened("no mask", good, {"bytes": b"no png", "path": None}), "the mask cannot be read"),
        (opened("no image", None, Image.fromarray(mask(1))), "no image"),
        (opened("ragged", good, [[1, 2], [1]], numbers), "the mask cannot be read"),
        (opened("negative", good, [[1, -2]], numbers), "value -2"),
        (opened("flat", good, [], numbers), "shape (0,)"),
    ):
        with refused("train-000001", words):
            check_masks(dataset, ["train-000001"])
        assert not dataset.has_mask("train-000000")


def test_masks_of_0_and_255_are_ambiguous(tmp_path: Path) -> None:
    rows = {"image": [Image.fromarray(image(0))], "mask": [Image.fromarray(mask(0) // 255 * 255)]}
    with refused("hf:", "only 0 and 255", "0 and 1"):
        open_dataset(save(tmp_path / "data", Dataset.from_dict(rows)))


def test_gray_levels_are_not_classes(tmp_path: Path) -> None:
    levels = np.array([0, 128, 255], np.uint8)[np.arange(24 * 32).reshape(24, 32) // 300]
    rows = {"image": [Image.fromarray(image(0))] * 2, "mask": [Image.fromarray(levels)] * 2}
    with refused("hf:", "gray levels"):
        open_dataset(save(tmp_path / "data", Dataset.from_dict(rows)))
    write_lines(tmp_path / "data" / "classes.txt", "sea", "land")
    rows["mask"] = [Image.fromarray(levels // 128 * 255)] * 2
    save(tmp_path / "other", Dataset.from_dict(rows))
    write_lines(tmp_path / "other" / "classes.txt", "sea", "land")
    with refused("hf:", "all masks hold only 0 and 255"):
        semiseg.import_data(f"hf:{tmp_path}/other", tmp_path / "own")


def test_import_writes_the_bytes_of_the_files(tmp_path: Path) -> None:
    data = save(tmp_path / "data", DatasetDict({"train": table(3), "test": table(2, start=5)}))
    with refused("hf:", "this is a data set of Hugging Face", f"semiseg import {data} --out data-semiseg"):
        semiseg.data.open_dataset(data)
    own = semiseg.data.open_dataset(semiseg.import_data(data, tmp_path / "own").out)
    assert own.split("test") == ("test-000000", "test-000001")
    for id, seed in (("train-000002", 2), ("test-000001", 6)):
        assert (own.read_image(id).permute(1, 2, 0).numpy() == image(seed)).all()
        assert (own.read_mask(id).numpy() == mask(seed)).all()
    assert {path.suffix for path in (tmp_path / "own/images").iterdir()} == {".png"}


def test_data_that_cannot_be_loaded_raises_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with refused(f"hf:{tmp_path}/nowhere", "cannot be loaded", "save_to_disk"):
        open_dataset(f"hf:{tmp_path}/nowhere")
    with refused("hf:FOLDER"):
        open_dataset("hf:")
    data = save(tmp_path / "data", table(2, without=(0, 1)))
    with refused(data, "no mask in any row"):
        open_dataset(data)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with refused("pip install 'semiseg[hf]'"):
        open_dataset(data)
