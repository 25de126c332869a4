"""Derived annotation: kept pixels are unchanged, results depend on the seed alone, and nothing is overwritten."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiseg import cli
from semiseg.data import IGNORE, FolderDataset, Shapes, open_dataset, resolve_split, write_folder
from semiseg.data.splits import derive_annotation as derive
from semiseg.data.splits.dataset_split import sample_labeled
from semiseg.data.splits.make_splits import make_split
from semiseg.errors import UserError

quick = settings(max_examples=15, deadline=None, derandomize=True)


def random_mask(seed: int) -> np.ndarray:
    """Return patches of four classes, some of them unknown, on an image with odd sides."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    coarse = rng.choice([0, 1, 2, 3, IGNORE], (height // 5 + 1, width // 7 + 1))
    mask = np.kron(coarse, np.ones((5, 7), dtype=np.int64))[:height, :width].astype(np.uint8)
    noise = rng.random(mask.shape) < 0.02
    mask[noise] = rng.choice([0, 1, 2, 3], int(noise.sum()))
    return mask


# Masks.


def test_connected_regions_of_small_mask() -> None:
    mask = np.array([[0, 0, 1, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 1, 2]], dtype=np.uint8)
    labels = derive.connected_regions(mask)
    #  a a b a     the zeros are one region, diagonal neighbors are not connected
    #  c a b a
    #  c a a a
    #  d e e f
    groups = {frozenset(zip(*np.nonzero(labels == k), strict=True)) for k in range(labels.max() + 1)}
    assert sorted(len(group) for group in groups) == [1, 1, 2, 2, 2, 8]
    assert frozenset({(0, 2), (1, 2)}) in groups and frozenset({(3, 1), (3, 2)}) in groups


@given(st.integers(0, 10**6))
@quick
def test_connected_regions_match_neighbors(seed: int) -> None:
    mask = random_mask(seed)
    labels = derive.connected_regions(mask)
    for k in range(int(labels.max()) + 1):
        assert len(np.unique(mask[labels == k])) == 1
    for one, other, value, neighbor in [
        (labels[1:], labels[:-1], mask[1:], mask[:-1]),
        (labels[:, 1:], labels[:, :-1], mask[:, 1:], mask[:, :-1]),
    ]:
        assert ((one == other) == (value == neighbor)).all()


@given(st.integers(0, 10**6))
@quick
def test_kept_pixels_are_unchanged(seed: int) -> None:
    mask = random_mask(seed)
    before = mask.copy()
    for kept in (derive.scribbles(mask, 0.2, seed, "a"), derive.boxes(mask), derive.some_classes(mask, (1, 3))):
        assert kept.dtype == np.uint8 and ((kept == mask) | (kept == IGNORE)).all()
        assert (mask == before).all()
    every = set(np.unique(mask)) - {IGNORE}
    assert set(np.unique(derive.scribbles(mask, 0.2, seed, "a"))) - {IGNORE} == every
    assert set(np.unique(derive.boxes(mask))) - {IGNORE} == every


def test_scribble_is_connected_and_covers_share_inside_region() -> None:
    mask = np.full((120, 120), 1, dtype=np.uint8)
    mask[20:100, 20:100] = 2
    for seed in range(5):
        kept = derive.scribbles(mask, 0.03, seed, "a")
        curve = kept == 2
        assert curve.sum() == round(0.03 * 80 * 80)
        assert not curve[:22].any() and not curve[-22:].any() and not curve[:, :22].any() and not curve[:, -22:].any()
        rows, columns = np.nonzero(curve)
        gaps = np.abs(rows[:, None] - rows) + np.abs(columns[:, None] - columns)
        reached = {0}
        while new := {int(j) for i in reached for j in np.flatnonzero(gaps[i] <= 2)} - reached:
            reached |= new
        assert len(reached) == len(rows)  # connected, by the eight neighbors
        longest = max(np.ptp(rows), np.ptp(columns))
        assert longest > 20  # a curve; a compact spot would measure 14 across


def test_box_fills_rectangle_and_largest_part_of_l_shape() -> None:
    mask = np.full((20, 30), IGNORE, dtype=np.uint8)
    mask[3:9, 5:25] = 1
    assert (derive.boxes(mask) == mask).all()
    mask = np.zeros((20, 20), dtype=np.uint8)
    mask[2:18, 2:5] = 1
    mask[9:18, 2:18] = 1  # 9 high, 16 wide, a bar of 3 on top
    kept = derive.boxes(mask) == 1
    expected = np.zeros((20, 20), dtype=np.bool_)
    expected[9:18, 2:18] = True
    assert (kept == expected).all()


def test_small_regions_are_skipped_except_largest_of_class() -> None:
    mask = np.zeros((200, 200), dtype=np.uint8)
    mask[100, 100], mask[50, 50], mask[50, 51] = 1, 1, 1  # both below 4 pixels: only the larger one is kept
    kept = derive.boxes(mask)
    assert (kept == 1).sum() == 2 and kept[50, 50] == kept[50, 51] == 1


def test_classes_and_tags_of_small_mask() -> None:
    mask = np.array([[0, 2], [255, 3]], dtype=np.uint8)
    assert derive.some_classes(mask, (2, 3)).tolist() == [[255, 2], [255, 3]]
    assert derive.all_tags(mask, 5) == (1, 0, 1, 1, 0)
    nothing = np.full((2, 2), 255, dtype=np.uint8)
    assert derive.single_tag(nothing, 3, 0, "a") == (-1, -1, -1)


@given(st.integers(0, 10**6))
@quick
def test_assigned_classes_are_balanced(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shown = {f"{n:02d}": sorted(rng.choice(6, rng.integers(2, 6), replace=False).tolist()) for n in range(40)}
    shown |= {"empty": []}
    first = {f"{n:02d}" for n in range(5, 17)}
    assigned = derive.assign_classes(shown, first, seed)
    assert assigned.keys() == shown.keys() - {"empty"} and all(value in shown[id] for id, value in assigned.items())
    assert assigned == derive.assign_classes(dict(reversed(shown.items())), first, seed)
    everything = {f"{n}": list(range(6)) for n in range(30)}
    counts = np.bincount(list(derive.assign_classes(everything, (), seed).values()))
    assert counts.tolist() == [5] * 6
    among_first = derive.assign_classes(everything, {"3", "4", "7", "11", "20", "29"}, seed)
    assert {among_first[id] for id in ("3", "4", "7", "11", "20", "29")} == set(range(6))


def test_tags_depend_on_seed_and_image() -> None:
    mask = np.arange(200, dtype=np.uint8).reshape(10, 20)
    draws = {(seed, id): derive.single_tag(mask, 200, seed, id) for seed in range(3) for id in "abc"}
    assert all(sum(tag == 1 for tag in tags) == 1 and set(tags) == {1, -1} for tags in draws.values())
    assert len(set(draws.values())) > 6 and draws[1, "b"] == derive.single_tag(mask, 200, 1, "b")
    some = [derive.some_tags(mask, 250, 0, id) for id in map(str, range(20))]
    known = np.mean([[tag != -1 for tag in tags] for tags in some])
    assert 0.45 < known < 0.55
    assert all(tag in (-1, want) for tags in some for tag, want in zip(tags, derive.all_tags(mask, 250), strict=True))


# Data sets.


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


KINDS = {
    "scribbles": {"scribbles": 0.05},
    "boxes": {"boxes": True},
    "classes": {"classes": "star, ring"},
    "single": {"single_positive": True, "tags": "single"},
    "tags": {"tags": "some"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_derived_data_set(tiny_folder: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    make_split(tiny_folder, labeled="1/4")
    before = files(tiny_folder)
    out = make_split(tiny_folder, tmp_path / "out", seed=3, **KINDS[kind])
    assert "of the pixels of annotated training images are known (before: 100.00%)" in capsys.readouterr().err
    assert files(tiny_folder) == before
    full, part = FolderDataset(tiny_folder), FolderDataset(out)
    assert (part.ids, part.classes, part.palette) == (full.ids, full.classes, full.palette)
    assert all(part.split(name) == full.split(name) for name in ("train", "val", "test"))
    assert part.published_lists("1/4", 0) is not None is not full.published_lists("1/4", 0)
    assert sample_labeled(part, "1/4", 0) == sample_labeled(full, "1/4", 0)
    for id in full.ids:
        assert torch.equal(part.read_image(id), full.read_image(id))
        kept, mask = part.read_mask(id), full.read_mask(id)
        if id.startswith("train"):
            assert ((kept == mask) | (kept == IGNORE)).all() and torch.equal(kept, mask) == (kind == "tags")
            assert kind != "single" or len(set(kept.unique().tolist()) - {IGNORE}) == 1
        else:
            assert torch.equal(kept, mask)
            assert part.tags(id) is None
    assert ((out / "tags.csv").exists()) == (kind in ("single", "tags"))
    again = make_split(tiny_folder, tmp_path / "again", seed=3, **KINDS[kind])
    assert files(again) == files(out)
    if kind not in ("boxes", "classes"):
        assert files(make_split(tiny_folder, tmp_path / "other", seed=4, **KINDS[kind])) != files(out)


def test_existing_files_are_not_overwritten(tiny_folder: Path, tmp_path: Path) -> None:
    before = files(tiny_folder)
    for out in (tiny_folder, tiny_folder / "masks"):
        with pytest.raises(UserError, match=r"exists and is not empty\. Choose another --out"):
            make_split(tiny_folder, out, boxes=True)
    assert files(tiny_folder) == before
    lists = make_split(tiny_folder, labeled="1/4", seed=1)
    assert lists == tiny_folder / "splits" / "1_4" / "seed1"
    before = files(tiny_folder)
    with pytest.raises(UserError, match=r"seed1/labeled\.txt: already exists"):
        make_split(tiny_folder, labeled="1/4", seed=1)
    assert files(tiny_folder) == before


def test_failure_leaves_no_files(tiny_folder: Path, tmp_path: Path) -> None:
    (tiny_folder / "masks" / "train00007.png").write_bytes(b"not a mask")
    with pytest.raises(UserError, match=r"train00007\.png: the mask cannot be read"):
        make_split(tiny_folder, tmp_path / "here" / "out", boxes=True)
    assert not list((tmp_path / "here").iterdir())


def test_written_lists_equal_those_of_a_run(tiny_folder: Path, tmp_path: Path) -> None:
    sampled = resolve_split(open_dataset(tiny_folder), "1/4", 5)
    make_split(tiny_folder, labeled="1/4", seed=5)
    written = resolve_split(open_dataset(tiny_folder), "1/4", 5)
    assert (written.labeled, written.unlabeled) == (sampled.labeled, sampled.unlabeled)
    assert "the lists that come with" in written.notes[0]
    folder = make_split(tiny_folder, tmp_path / "lists", labeled="3")
    assert len((folder / "labeled.txt").read_text().split()) == 3
    assert resolve_split(open_dataset(tiny_folder), str(folder / "labeled.txt"), 0).labeled


def test_derive_from_generated_data(tmp_path: Path) -> None:
    text = "shapes:images=3,val=1,test=1,size=48"
    out = make_split(text, tmp_path / "out", scribbles=0.1, labeled="1/3")
    shapes, part = Shapes(images=3, val=1, test=1, size=48), FolderDataset(out)
    assert all(torch.equal(part.read_image(id), shapes.read_image(id)) for id in shapes.ids)
    assert len(resolve_split(part, "1/3", 0).labeled) == 1


def test_missing_val_list_warns(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("val", "test"):
        (tiny_folder / "splits" / f"{name}.txt").unlink()
    make_split(tiny_folder, tmp_path / "out", boxes=True)
    assert "no val list, so validation will use partial masks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({}, "nothing to do"),
        ({"boxes": True}, "--out: missing"),
        ({"boxes": True, "classes": "star", "out": "new"}, "exclude each other"),
        ({"scribbles": 0.0, "out": "new"}, r"--scribbles: 0\.0 is out of range.*in \(0, 1\]"),
        ({"classes": "star,rings", "out": "new"}, "unknown class 'rings' of tiny: did you mean ring"),
        ({"labeled": "3"}, "--out: missing.*Give a folder for the two lists"),
        ({"labeled": "3", "boxes": True, "out": "new"}, "not a share, which a data set requires"),
        ({"labeled": "5/4"}, "not a share"),
    ],
)
def test_invalid_options_fail(tiny_folder: Path, tmp_path: Path, options: dict[str, object], complaint: str) -> None:
    if "out" in options:
        options = options | {"out": tmp_path / "new"}
    before = files(tiny_folder)
    with pytest.raises(UserError, match=complaint) as caught:
        make_split(tiny_folder, **options)
    assert "\n" not in str(caught.value)
    assert files(tiny_folder) == before and not (tmp_path / "new").exists()


# Whole commands.

QUICK = (
    *("--encoder", "test_resnet", "--weights", "none", "--crop-size", "32", "--batch-size", "2", "--steps", "2"),
    *("--val-every", "never", "--workers", "0", "--accelerator", "cpu", "--labeled", "1/3", "--threshold-mode", "none"),
)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("derived", "annotation", "method"),
    [
        (("--scribbles", "0.05", "--tags", "all"), "partial", "dual-teacher"),
        (("--single-positive", "--tags", "single"), "single-positive", "mean-teacher"),
    ],
)
def test_derive_and_train(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    derived: tuple[str, ...],
    annotation: str,
    method: str,
) -> None:
    def semiseg(*argv: object) -> int:
        monkeypatch.setattr(sys, "argv", ["semiseg", *map(str, argv)])
        return cli.main()

    out, run = tmp_path / "out", tmp_path / "run"
    assert semiseg("split", tiny_folder, "--out", out, *derived) == 0
    assert semiseg("split", tiny_folder, "--out", out, *derived) == 2
    train = ("train", "--data", out, "--method", method, "--annotation", annotation, "--out", run, *QUICK)
    train += ("--burn-in", 0, "--ramp-up", 0)
    assert semiseg(*train) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [line for line in lines if "loss" in line]
    assert len(training) == 2
    for term in ("supervised", "filled", "tags"):
        assert all(line[f"loss/{term}"] > 0 for line in training), term


def test_scribbles_on_camvid(camvid_dir: Path) -> None:
    """On real masks, scribbles of 3 % cover about 3 % and every class of the image."""
    dataset = open_dataset(camvid_dir)
    for id in (dataset.split("train") or ())[::180]:
        mask = dataset.read_mask(id).numpy()
        kept = derive.scribbles(mask, 0.03, 0, id)
        assert 0.02 < (kept != IGNORE).mean() / (mask != IGNORE).mean() < 0.035
        assert set(np.unique(kept)) >= set(np.unique(mask)) - {IGNORE}


def test_published_lists_and_tags_are_copied(tmp_path: Path) -> None:
    source = write_folder(Shapes(images=8, val=1, test=1, size=48), tmp_path / "full")
    ids = FolderDataset(source).split("train") or ()
    for folder in ("1_4", "3/split_0"):
        (source / "splits" / folder).mkdir(parents=True)
        (source / "splits" / folder / "labeled.txt").write_text(f"{ids[2]}\n{ids[5]}")
        (source / "splits" / folder / "unlabeled.txt").write_text(f"{ids[0]}\n")
    classes = FolderDataset(source).classes
    (source / "tags.csv").write_text(f"image,{','.join(classes)}\n{ids[0]},1,0{',' * (len(classes) - 2)}\n")
    make_split(source, tmp_path / "boxes", boxes=True)
    part, full = open_dataset(tmp_path / "boxes"), open_dataset(source)
    for labeled in ("1/4", "3"):
        assert sample_labeled(part, labeled, 0) == sample_labeled(full, labeled, 0) == ((ids[2], ids[5]), (ids[0],))
    assert part.tags(ids[0]) == full.tags(ids[0]) is not None


def test_unwritable_lists_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be written"):
        make_split("shapes:images=8,val=1,test=1,size=48", tmp_path / "file", labeled="1/4")
