"""Validation images without a val list, and the images that lists leave out."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semiseg.data import Split, open_dataset, resolve_split
from semiseg.data.splits.hold_out import SHARE, hash_of, hold_out
from semiseg.data.splits.make_splits import make_split
from semiseg.tools.checking import check_data
from semiseg.tools.checking.list_findings import read_lists
from trees import refused, write_image, write_lines, write_mask

NAMES = st.text(min_size=1, max_size=5)


def make(root: Path, masked: int, unmasked: int = 0) -> Path:
    """Write images ``m0`` ... with masks of two classes and ``u0`` ... without."""
    for index in range(masked):
        write_image(root / "images" / f"m{index}.png", index)
        write_mask(root / "masks" / f"m{index}.png", (0, 1))
    for index in range(unmasked):
        write_image(root / "images" / f"u{index}.png", 100 + index)
    write_lines(root / "classes.txt", "soil", "plant")
    return root


def split_of(root: Path, labeled: str | None = None, seed: int = 0, unlabeled: Path | None = None) -> Split:
    return resolve_split(open_dataset(root), labeled, seed, str(unlabeled) if unlabeled else None)


def test_hash_is_that_of_the_documented_rule() -> None:
    assert hash_of("a") == int.from_bytes(hashlib.sha256(b"a").digest()[:8], "big") / 2**64
    assert hash_of(unicodedata.normalize("NFD", "Blüte")) == hash_of(unicodedata.normalize("NFC", "Blüte"))


@given(st.sets(NAMES, min_size=2), st.sets(NAMES))
def test_added_masks_move_no_training_image_to_val(before: set[str], added: set[str]) -> None:
    val = hold_out(before)
    train = before - val
    assert val and train
    later = hold_out(before | added)
    if any(hash_of(id) >= SHARE for id in before):  # otherwise the last one trains, for want of another
        assert train.isdisjoint(later)


@settings(max_examples=30)
@given(st.sets(NAMES, min_size=200, max_size=200))
def test_about_a_fifth_is_held_out(ids: set[str]) -> None:
    assert hold_out(ids) == {id for id in ids if hash_of(id) < SHARE}
    assert 10 < len(hold_out(ids)) < 80


def test_seed_and_number_of_labels_do_not_change_the_val_list(tmp_path: Path) -> None:
    root = make(tmp_path / "d", 20, 3)
    splits = [split_of(root, labeled, seed) for labeled in (None, "5", "1/4") for seed in range(3)]
    assert len({split.val for split in splits}) == 1 and splits[0].val
    assert {len(split.labeled) for split in splits[3:6]} == {5}
    for split in splits:
        assert set(split.val).isdisjoint({*split.labeled, *split.unlabeled})
    assert "no val list: " in splits[0].notes[0] and "of 20 images with a mask are held out" in splits[0].notes[0]


def test_loop_of_annotation_keeps_val_images(tmp_path: Path) -> None:
    root = make(tmp_path / "d", 10, 8)
    first = split_of(root)
    for index in range(0, 8, 2):
        write_mask(root / "masks" / f"u{index}.png", (0, 1))
    second = split_of(root)
    assert set(first.labeled).isdisjoint(second.val) and set(first.val) <= set(second.val)
    assert len(second.labeled) + len(second.val) == 14


def test_labeled_file_is_divided_itself(tmp_path: Path) -> None:
    """Other masks may be drafts, so they are not used for validation either."""
    root = make(tmp_path / "d", 12)
    listed = [f"m{index}" for index in range(8)]
    split = split_of(root, str(write_lines(tmp_path / "mine.txt", *listed)))
    assert {*split.labeled, *split.val} == set(listed) and set(split.val) == hold_out(listed)


def test_one_mask_is_not_enough(tmp_path: Path) -> None:
    with refused("one labeled image cannot serve", "Annotate a second one"):
        split_of(make(tmp_path / "d", 1, 4))


def test_published_lists_lose_held_out_images(tmp_path: Path) -> None:
    root = make(tmp_path / "d", 12)
    folder = make_split(root, labeled="1/2", seed=4)
    split = split_of(root, "1/2", 4)
    assert [*split.labeled] == (folder / "labeled.txt").read_text().split()
    write_lines(folder / "labeled.txt", *(f"m{index}" for index in range(6)))
    write_lines(folder / "unlabeled.txt", *(f"m{index}" for index in range(6, 12)))
    changed = split_of(root, "1/2", 4)
    assert changed.val == split.val and {*changed.labeled, *changed.unlabeled, *split.val} == set(
        open_dataset(root).ids
    )


# Images that no list names.


def with_lists(root: Path) -> Path:
    """Add lists of m0 ... m4, of eight images with and four without a mask."""
    make(root, 8, 4)
    write_lines(root / "splits/train.txt", "m0", "m1", "m2")
    write_lines(root / "splits/val.txt", "m3", "m4")
    return root


def test_unlisted_photographs_are_unlabeled(tmp_path: Path) -> None:
    root = with_lists(tmp_path / "d")
    split = split_of(root)
    assert split.labeled == ("m0", "m1", "m2") and split.unlabeled == ("u0", "u1", "u2", "u3")
    assert split.notes == (
        "not used: 3 images with a mask that no list names. Add them to splits/train.txt to train on them",
        "unlabeled: 4 images without a mask that no list names",
    )
    sampled = split_of(root, "1")
    assert len(sampled.labeled) == 1 and len(sampled.unlabeled) == 2 + 4


def test_unlabeled_list_limits_the_pool(tmp_path: Path) -> None:
    root = with_lists(tmp_path / "d")
    write_lines(root / "splits/unlabeled.txt", "u1", "m5")
    split = split_of(root)
    assert split.unlabeled == ("u1", "m5")
    assert any("splits/unlabeled.txt: 1 images have a mask, which is not used" in note for note in split.notes)


def test_unlabeled_list_without_train_list(tmp_path: Path) -> None:
    root = make(tmp_path / "d", 6, 4)
    write_lines(root / "splits/unlabeled.txt", "u1", "m5")
    split = split_of(root)
    assert {*split.labeled, *split.val} == {f"m{index}" for index in range(5)}
    assert split.unlabeled == ("u1", "m5")
    assert read_lists(open_dataset(root)).ids("unlisted") == ["u0", "u2", "u3"]


def test_other_unlabeled_lists_take_precedence(tmp_path: Path) -> None:
    root = with_lists(tmp_path / "d")
    split = split_of(root, unlabeled=write_lines(tmp_path / "some.txt", "u2"))
    assert split.unlabeled == ("u2",) and not any(note.startswith("unlabeled:") for note in split.notes)


def test_check_counts_unlisted_photographs_as_unlabeled(tmp_path: Path) -> None:
    root = with_lists(tmp_path / "d")
    lists = read_lists(open_dataset(root))
    assert lists.ids("unlabeled") == ["u0", "u1", "u2", "u3"] and lists.ids("unlisted") == ["m5", "m6", "m7"]
    (finding,) = [finding for finding in lists.findings if finding.kind == "unlisted"]
    assert finding.text.startswith("3 images in no list, not used (3 masks)")
    write_lines(root / "splits/unlabeled.txt", "u1")
    assert read_lists(open_dataset(root)).ids("unlabeled") == ["u1"]


@pytest.mark.parametrize("lists", [True, False])
def test_check_suggests_semi_supervised_training(tmp_path: Path, lists: bool) -> None:
    root = with_lists(tmp_path / "d") if lists else make(tmp_path / "d", 8, 4)
    assert "--method supervised" not in check_data(root)[0].command
