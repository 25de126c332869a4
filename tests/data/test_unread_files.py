"""Labels, class files and lists of an own folder that are not read are named, in check and before training."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import semiseg
from semiseg import cli
from semiseg.data import FolderDataset, open_dataset
from semiseg.data.unread_files import unread_files
from semiseg.tools.checking import check_data
from trees import refused


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "d"))


def warnings(folder: Path) -> list[tuple[str, str]]:
    return [(found.text, found.remedy) for found in check_data(folder)[0].findings if found.kind == "unread"]


def test_folder_without_such_files(folder: Path) -> None:
    assert unread_files(FolderDataset(folder)) == [] and warnings(folder) == []


@pytest.mark.slow
def test_labels_of_other_types(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sorted((folder / "masks").glob("train*.png"))[0]
    first.rename(first.with_suffix(".npy"))
    ((text, remedy),) = warnings(folder)
    assert f"1 file of a type that is not read in masks/: masks/{first.stem}.npy" in text
    assert remedy.startswith("save them as PNG")
    shutil.rmtree(folder / "splits")
    run = folder.parent / "run"
    options = ("--method=supervised", "--preset=small", "--steps=1", "--crop-size=32", "--batch-size=2")
    options += ("--encoder=test_resnet", "--weights=none")
    monkeypatch.setattr(sys, "argv", ["semiseg", "train", "--data", str(folder), "--out", str(run), *options])
    assert cli.main() == 0 and f"warning: {text}" in (run / "log.txt").read_text()


def test_class_files_in_other_folders_and_case(folder: Path) -> None:
    (folder / "classes.json").rename(folder / "Classes.json")
    (folder / "masks" / "classes.txt").write_text("soil\n")
    ((text, remedy),) = warnings(folder)
    assert text.startswith("Classes.json, masks/classes.txt is not read")
    assert remedy == f"move it to {folder / 'classes.json'}"


@pytest.mark.parametrize("location", [".", "ImageSets/Segmentation"])
def test_lists_in_other_folders(folder: Path, location: str) -> None:
    (folder / location).mkdir(parents=True, exist_ok=True)
    assert warnings(folder) == []
    (folder / "splits" / "val.txt").rename(folder / location / "val.txt")
    ((text, remedy),) = warnings(folder)
    assert "val.txt: lists there are not read" in text and remedy == f"move them to {folder / 'splits'}"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_masks_in_the_alpha_channel_fail(folder: Path, mode: str) -> None:
    path = sorted((folder / "masks").glob("*.png"))[0]
    opacity = np.zeros((48, 48), dtype=np.uint8)
    opacity[:20] = 255
    image = Image.new(mode, (48, 48), "white")
    image.putalpha(Image.fromarray(opacity))
    image.save(path)
    with refused(path.name, "varies only in its alpha channel", "gray PNG"):
        FolderDataset(folder).read_mask(path.stem)


def test_fixes_name_the_folder(folder: Path) -> None:
    path = sorted((folder / "masks").glob("*.png"))[0]
    pages = [Image.fromarray(np.full((48, 48), page, dtype=np.uint8)) for page in (0, 1)]
    pages[0].save(path.with_suffix(".tif"), save_all=True, append_images=pages[1:])
    path.unlink()
    with refused(f"`semiseg import {folder} --out {folder}-semiseg --form one-hot`"):
        FolderDataset(folder).read_mask(path.stem)
    (folder / "masks" / f"{path.stem}.jpg").write_bytes(b"")
    with refused(f"`semiseg import {folder} --out {folder}-semiseg --threshold 128`"):
        FolderDataset(folder)


def test_foreign_and_misnamed_data_have_one_finding(folder: Path) -> None:
    for path in (folder / "masks").glob("*.png"):
        path.rename(path.with_stem(f"{path.stem}_mask"))
    (finding,) = check_data(folder)[0].findings
    assert finding.kind == "refused" and finding.remedy == f"run: semiseg import {folder} --out {folder}-semiseg"


def test_other_folders_of_images_are_named(folder: Path) -> None:
    (folder / "classes.json").unlink()
    (folder / "masks").rename(folder / "leaf")
    (folder / "masks").mkdir()
    with refused("no masks there, but images in leaf/", f"semiseg import {folder}", "--form mask-per-class"):
        open_dataset(folder)


def test_an_archive_is_a_file(folder: Path) -> None:
    (archive := folder / "x.zip").write_bytes(b"PK")
    with refused("x.zip", "this is a file", "Unpack it"):
        open_dataset(archive)


def test_names_of_yolo_without_background_are_a_warning(folder: Path) -> None:
    names = json.loads((folder / "classes.json").read_text())["classes"]
    (folder / "classes.json").unlink()
    (folder / "data.yaml").write_text(json.dumps({"names": ["soil", *names[1:]]}))
    assert any(f.severity == "warning" and "in masks 0 is soil" in f.text for f in check_data(folder)[0].findings)
    (folder / "data.yaml").write_text(json.dumps({"names": names[1:]}))
    findings = check_data(folder)[0].findings
    assert any("write classes.txt with the name of value 0" in found.remedy for found in findings)


@pytest.mark.parametrize(("change", "words"), [(str.upper, "in the case"), ("{0}.png,{0}.png".format, "a tab instead")])
def test_lists_in_another_case_or_with_commas(folder: Path, change: object, words: str) -> None:
    path = folder / "splits" / "val.txt"
    path.write_text("\n".join(change(line) for line in path.read_text().split()))  # type: ignore[operator]
    assert any(words in found.remedy for found in check_data(folder)[0].findings if found.kind == "missing-images")
    with refused("val.txt", words):
        FolderDataset(folder).split("val")


def test_annotation_of_another_form_beside_empty_masks(tmp_path: Path) -> None:
    for name in ("images", "masks", "labels"):
        (tmp_path / "d" / name).mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(tmp_path / "d/images/a.png")
    (tmp_path / "d/labels/a.txt").write_text("0 0.1 0.1 0.6 0.1 0.6 0.6\n")
    (tmp_path / "d/data.yaml").write_text("names: [leaf]\n")
    root = tmp_path / "d"
    (problem,) = [found for found in check_data(root)[0].findings if found.kind == "no-masks"]
    assert f"run: semiseg import {root} --out {root}-semiseg --form yolo (the folder holds a YOLO" in problem.remedy


def test_jpeg_masks_only(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.new("L", (32, 32)).save(tmp_path / "d" / name / "a.jpg")
    problems = check_data(tmp_path / "d")[0].with_severity("problem")
    assert [found.text for found in problems] == [
        "masks/a.jpg: a JPEG mask is blurred at its edges by lossy compression"
    ]
    with refused(f"run `semiseg import {tmp_path / 'd'} --out {tmp_path / 'own'} --threshold 128`"):
        semiseg.import_data(tmp_path / "d", tmp_path / "own")
