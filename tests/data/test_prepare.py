"""Tests of ``semiseg prepare``: validation, the directory it creates, and that it overwrites nothing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from semiseg import cli
from semiseg.data import open_dataset, resolve_split
from semiseg.data.benchmarks.prepare_benchmark import prepare_benchmark
from trees import (
    ADE_TRAIN,
    VOC_TRAIN,
    VOC_VAL,
    make_ade20k,
    make_cityscapes,
    make_voc,
    refused,
    two_columns,
    write_lines,
    write_mask,
)

MAKE: dict[str, Callable[[Path], Path]] = {
    "voc2012": make_voc,
    "cityscapes": make_cityscapes,
    "ade20k": make_ade20k,
}


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "voc")


def prepare_voc(source: Path, out: Path, **options: Any) -> str:
    return "\n".join(prepare_benchmark("voc2012", source, out, **options))


@pytest.mark.parametrize("name", MAKE)
def test_prepared_directory_has_the_same_samples_as_the_source(tmp_path: Path, name: str) -> None:
    source, out = MAKE[name](tmp_path / "copy"), tmp_path / "new" / "out"
    report = prepare_benchmark(name, source, out)
    ours, theirs = open_dataset(out), open_dataset(source)
    assert (ours.name, ours.ids, ours.classes) == (name, theirs.ids, theirs.classes)
    for id in theirs.ids:
        assert torch.equal(ours.read_image(id), theirs.read_image(id)) and ours.has_mask(id) == theirs.has_mask(id)
        assert not ours.has_mask(id) or torch.equal(ours.read_mask(id), theirs.read_mask(id))
    for split in ("train", "val", "test"):
        assert ours.split(split) == theirs.split(split)
    path = ours.image_path(ours.ids[0])
    assert path is not None and path.is_symlink() and path.resolve() == (theirs.image_path(ours.ids[0]) or path)
    assert any("publications use a list" in line for line in report)
    assert report[-1].startswith("next: semiseg train")
    assert sorted(entry.name for entry in out.parent.iterdir()) == ["out"]


def test_published_lists_are_written_to_splits(voc: Path, tmp_path: Path) -> None:
    report = prepare_voc(voc, tmp_path / "out")
    for line in ("10 images, 10 masks", "train: 8 images", "2/labeled: 2 images", "splits/2/labeled.txt"):
        assert line in report
    assert (tmp_path / "out" / "splits" / "2" / "labeled.txt").read_text().split() == [*VOC_TRAIN[1:3]]
    assert resolve_split(open_dataset(tmp_path / "out"), "2", 0).labeled == VOC_TRAIN[1:3]


def test_lists_option_reads_a_collection_of_another_folder(voc: Path, tmp_path: Path) -> None:
    shutil.rmtree(voc / "splits")
    report = prepare_voc(voc, tmp_path / "without")
    assert "train: 4 images" in report and "--lists" in report
    lists = tmp_path / "splits"
    write_lines(lists / "pascal" / "train_aug.txt", *map(two_columns, VOC_TRAIN))
    write_lines(lists / "pascal" / "1_4" / "split_0" / "labeled.txt", *VOC_TRAIN[:2])
    write_lines(lists / "pascal" / "1_4" / "split_0" / "unlabeled.txt", *VOC_TRAIN[2:])
    write_lines(lists / "pascal" / "pseudoseg_labeled_1-16.txt", VOC_TRAIN[3])
    write_lines(lists / "pascal" / "pseudoseg_unlabeled_1-16.txt", *VOC_TRAIN[3:5])
    write_lines(lists / "pascal" / "1464" / "labeled.txt", VOC_TRAIN[0])
    write_lines(lists / "pascal" / "1464" / "unlabeled.txt", *VOC_TRAIN[1:])
    report = prepare_voc(voc, tmp_path / "out", lists=lists)
    assert "train: 8 images" in report and f"both lists, e.g. {VOC_TRAIN[3]}" in report
    assert "1_4/split_0/labeled: 50.0 % of its masks are in 1464/labeled" in report
    assert resolve_split(open_dataset(tmp_path / "out"), "1/4", 0).labeled == VOC_TRAIN[:2]
    assert not list((tmp_path / "out" / "splits").glob("pseudoseg*"))
    with refused("--lists: nowhere is not a folder"):
        prepare_voc(voc, tmp_path / "more", lists="nowhere")


def test_missing_images_raise_an_error_unless_existing_only(voc: Path, tmp_path: Path) -> None:
    for id in (VOC_TRAIN[1], VOC_VAL[0]):
        (voc / "JPEGImages" / f"{id}.jpg").unlink()
    with refused("1 of 8 train images are missing", VOC_TRAIN[1], "--existing-only"):
        prepare_voc(voc, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = prepare_voc(voc, tmp_path / "out", existing_only=True)
    assert "train: 7 images, skipping 1 missing" in report and "2/labeled: 1 images, skipping 1 missing" in report
    split = resolve_split(open_dataset(tmp_path / "out"), "2", 0)  # the new lists are complete
    assert split.labeled == VOC_TRAIN[2:3] and split.val == VOC_VAL[1:]


def test_invalid_and_missing_masks(voc: Path, tmp_path: Path) -> None:
    mask = voc / "SegmentationClassAug" / f"{VOC_TRAIN[5]}.png"
    write_mask(mask, (0, 77))
    with refused(str(mask), "value 77"):
        prepare_voc(voc, tmp_path / "out")
    mask.unlink()
    write_lines(voc / "splits" / "2" / "labeled.txt", VOC_TRAIN[5])
    write_lines(voc / "splits" / "2" / "unlabeled.txt", VOC_TRAIN[6])
    assert f"2: skipped: 1 labeled images have no mask, e.g. {VOC_TRAIN[5]}" in prepare_voc(voc, tmp_path / "out")
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        (voc / folder / f"{VOC_VAL[0]}.png").unlink()
    with refused("1 val images have no mask", VOC_VAL[0]):
        prepare_voc(voc, tmp_path / "other")


def test_existing_directory_is_kept_and_failure_leaves_nothing_behind(
    voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    write_lines(out / "mine.txt", "mine")
    with refused("out: already exists"):
        prepare_voc(voc, out)
    assert (out / "mine.txt").read_text() == "mine\n" and len(list(out.iterdir())) == 1

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "symlink_to", full)
    monkeypatch.setattr(shutil, "copyfile", full)
    with refused("new", "No space left"):
        prepare_voc(voc, tmp_path / "new")
    assert not list(tmp_path.glob("*new*"))


def test_files_are_copied_if_links_fail(voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert "copies" in prepare_voc(voc, tmp_path / "out")
    copy = tmp_path / "out" / "JPEGImages" / f"{VOC_TRAIN[0]}.jpg"
    assert not copy.is_symlink() and copy.read_bytes() == (voc / "JPEGImages" / copy.name).read_bytes()


def test_missing_val_part_is_an_error(tmp_path: Path) -> None:
    source = make_cityscapes(tmp_path / "city")
    shutil.rmtree(source / "leftImg8bit" / "val")
    with refused("no val images", "splits/val.txt"):
        prepare_benchmark("cityscapes", source, tmp_path / "out")


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    make_ade20k(tmp_path / "ade")

    def call(*argv: object) -> int:
        monkeypatch.setattr(sys, "argv", ["semiseg", "prepare", *map(str, argv)])
        return cli.main()

    assert call("ade20k", "--from", tmp_path / "ade", "--out", tmp_path / "out") == 0
    assert f"train: {len(ADE_TRAIN)} images" in capsys.readouterr().out and os.listdir(tmp_path / "out" / "splits")
    assert call("ade20", "--from", tmp_path / "ade", "--out", tmp_path / "more") == 2
    assert "did you mean ade20k?" in capsys.readouterr().err
    assert call("voc2012", "--from", tmp_path / "ade", "--out", tmp_path / "more") == 2
    assert capsys.readouterr().err.startswith(f"semiseg: {tmp_path / 'ade'}: Pascal VOC was not found")
    assert not (tmp_path / "more").exists()


@pytest.mark.slow
def test_voc_sample(voc_dir: Path, tmp_path: Path) -> None:
    assert "92/labeled" in prepare_voc(voc_dir, tmp_path / "out", existing_only=True)
    split = resolve_split(open_dataset(tmp_path / "out"), "732", 0)
    assert split.labeled and split.unlabeled and split.val and not any("not there" in note for note in split.notes)
