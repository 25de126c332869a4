"""``semiseg import``: what is written, how images are linked, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import semiseg
from semiseg import cli
from semiseg.data import FolderDataset, open_dataset
from semiseg.data.importers import IMPORTERS
from trees import refused

FIXTURES = Path(__file__).parents[1] / "fixtures"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An export of CVAT: four images, three of them annotated."""
    return shutil.copytree(FIXTURES / "cvat", tmp_path / "exported")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line and return status, output and errors."""

    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semiseg", *map(str, argv)])
        return cli.main(), *capsys.readouterr()

    return run


def test_import_writes_an_own_folder(source: Path, tmp_path: Path, call: Call) -> None:
    out = tmp_path / "own"
    status, printed, _ = call("import", source, "--out", out)
    assert status == 0 and "is a CVAT export" in printed
    for line in ("4 photographs from JPEGImages/", "3 annotated images from SegmentationClass/", "3 train, 1 val"):
        assert line in printed
    assert "To copy masks to another folder, import with --classes FOLDER" in printed
    assert "What to do" in printed and f"semiseg train --data {out}" in printed
    dataset = open_dataset(out)
    assert isinstance(dataset, FolderDataset) and dataset.classes == ("background", "leaf rust", "soil")
    assert dataset.split("train") == ("a 1", "b", "d") and dataset.split("val") == ("c",)
    with np.load(FIXTURES / "cvat.npz") as given:
        for id, mask in given.items():
            assert (dataset.read_mask(id).numpy() == mask).all()
            assert Image.open(out / "masks" / f"{id}.png").mode == "P"
    assert (out / "images" / "d.png").is_symlink() and not dataset.has_mask("d")


def test_images_are_hard_links_or_copies_where_links_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("a required privilege is not held by the client")

    monkeypatch.setattr(os, "symlink", fail)
    linked = semiseg.import_data(source, tmp_path / "linked")
    image = tmp_path / "linked" / "images" / "b.png"
    assert not image.is_symlink() and image.samefile(source / "JPEGImages" / "b.png")
    assert any("hard links" in note for note in linked.notes)
    monkeypatch.setattr(os, "link", fail)
    semiseg.import_data(source, tmp_path / "copied")
    image = tmp_path / "copied" / "images" / "b.png"
    assert not image.samefile(source / "JPEGImages" / "b.png")
    assert image.read_bytes() == (source / "JPEGImages" / "b.png").read_bytes()


def test_folders_called_train_without_a_val_list_are_an_own_folder(source: Path, tmp_path: Path) -> None:
    for folder, names in (("train", "bc"), ("more", "d")):
        for name in names:
            for part in ("JPEGImages", "SegmentationClass"):
                (source / part / folder).mkdir(exist_ok=True)
                if (path := source / part / f"{name}.png").exists():
                    path.rename(source / part / folder / f"{name}.png")
    shutil.rmtree(source / "ImageSets")
    imported = semiseg.import_data(source, tmp_path / "own")
    assert imported.checked.usable and "lists: none" in imported.notes
    dataset = open_dataset(tmp_path / "own")
    assert dataset.ids == ("a 1", "more/d", "train/b", "train/c") and not dataset.has_mask("more/d")


def test_copy_makes_the_folder_independent_of_the_export(source: Path, tmp_path: Path) -> None:
    imported = semiseg.import_data(source, tmp_path / "own", copy=True)
    shutil.rmtree(source)
    assert imported.checked.usable and semiseg.check(tmp_path / "own").usable


def test_classes_of_an_own_folder_set_the_order(source: Path, tmp_path: Path, call: Call) -> None:
    own, out = tmp_path / "own", tmp_path / "out"
    own.mkdir()
    names, colors = ["background", "stem", "soil", "leaf rust"], [[0, 0, 0], [9, 9, 99], [1, 2, 3], [4, 5, 6]]
    (own / "classes.json").write_text(json.dumps({"classes": names, "palette": colors}))
    status, printed, _ = call("import", source, "--out", out, "--classes", own)
    assert status == 0 and f"classes are numbered as in {own / 'classes.json'}" in printed
    assert json.loads((out / "classes.json").read_text())["classes"] == names
    with np.load(FIXTURES / "cvat.npz") as given:
        for id, mask in given.items():
            with Image.open(out / "masks" / f"{id}.png") as stored:
                expected = np.array([0, 3, 2, *range(3, 256)])[mask]
                assert (np.array(stored) == expected).all() and (stored.getpalette() or [])[3:6] == colors[1]
    (own / "classes.json").write_text(json.dumps({"classes": ["background", "soil", "Leaf rust"]}))
    with refused("classes.json lacks the classes 'leaf rust', and has background, soil, Leaf rust"):
        semiseg.import_data(source, tmp_path / "refused", classes=own / "classes.json")
    (own / "classes.json").write_text('{"values": {"0": "background", "9": "soil", "8": "leaf rust"}}')
    with refused("--classes", "other mask values than 0 to 2"):
        semiseg.import_data(source, tmp_path / "refused", classes=own)
    with refused("--classes", "has no class file"):
        semiseg.import_data(source, tmp_path / "refused", classes=tmp_path / "missing")


def test_out_inside_the_export_or_in_use_is_refused(source: Path, tmp_path: Path) -> None:
    for out in (source, source / "own", source / "a" / ".." / "own"):
        with refused("--out", "is inside", "exported-semiseg"):
            semiseg.import_data(source, out)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with refused("used", "exists and is not empty"):
        semiseg.import_data(source, tmp_path / "used")


def test_a_failed_import_leaves_nothing(source: Path, tmp_path: Path) -> None:
    (source / "SegmentationClass" / "c.png").write_bytes(b"damaged")
    before = sorted(tmp_path.iterdir())
    with refused("c.png", "the mask cannot be read"):
        semiseg.import_data(source, tmp_path / "own")
    Image.new("RGB", (5, 5)).save(source / "SegmentationClass" / "c.png")
    with refused("c.png", "the annotation is 5x5", "is 32x24"):
        semiseg.import_data(source, tmp_path / "own")
    assert sorted(tmp_path.iterdir()) == before


def test_other_commands_name_the_import(source: Path, call: Call) -> None:
    for argv in (("check", source), ("train", "--data", source)):
        status, printed, errors = call(*argv)
        text = " ".join((printed + errors).split())
        assert status == 2 and "this is a CVAT export" in text
        assert f"emiseg import {source} --out {source}-semiseg".lower()[:40] in text.lower()


def test_import_needs_a_folder_in_a_known_form(tmp_path: Path, call: Call) -> None:
    (tmp_path / "export.zip").write_bytes(b"PK")
    for source, words in (("export.zip", "is a file"), ("missing", "no such folder")):
        status, _, errors = call("import", tmp_path / source, "--out", tmp_path / "own")
        assert status == 2 and words in errors
    status, _, errors = call("import", tmp_path, "--out", tmp_path.parent / "own", "--form", "cvat-masks")
    assert status == 2 and "did you mean cvat-mask?" in errors


def test_every_form_has_a_title_and_a_description() -> None:
    for form, importer in IMPORTERS.items():
        assert form == importer.form and importer.title and importer.tree and importer.__doc__
