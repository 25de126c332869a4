"""Own folders with subfolders, links, Unicode names and misnamed masks."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from semiseg.data import open_dataset, write_folder
from semiseg.data.files.file_lists import list_files
from semiseg.data.files.mask_matching import unread_files_note
from semiseg.data.splits.id_lookup import IdLookup
from semiseg.data.splits.list_files import read_list
from semiseg.data.splits.make_splits import make_split
from semiseg.data.stream.make_shards import find_images
from semiseg.tools.checking import check_data
from semiseg.training.logging.sample_pictures import file_names
from trees import refused, write_image, write_lines, write_mask

IDS = ("2023/site a/img03", "2023/site a/img04", "2024/img03", "top")


def make(root: Path, images: tuple[str, ...] = IDS, masks: tuple[str, ...] = IDS[:3]) -> Path:
    """Write images ``ID.JPG`` and masks ``ID.png`` of two classes."""
    for seed, id in enumerate(images):
        write_image(root / "images" / f"{id}.JPG", seed)
    for id in masks:
        write_mask(root / "masks" / f"{id}.png", (0, 1))
    write_lines(root / "classes.txt", "soil", "plant")
    return root


def test_ids_are_paths_below_images(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path / "d"))
    assert tuple(dataset.ids) == IDS
    assert [id for id in dataset.ids if dataset.has_mask(id)] == list(IDS[:3])
    assert dataset.image_path("2024/img03") == tmp_path / "d/images/2024/img03.JPG"
    expected = np.asarray(Image.open(tmp_path / "d/masks/2023/site a/img03.png"))
    assert (dataset.read_mask("2023/site a/img03").numpy() == expected).all()


def test_names_match_in_nfc_and_files_keep_their_names(tmp_path: Path) -> None:
    name = "Blüte/Größe 1"
    decomposed, composed = unicodedata.normalize("NFD", name), unicodedata.normalize("NFC", name)
    dataset = open_dataset(make(tmp_path / "d", (decomposed, "b"), (composed,)))
    assert tuple(dataset.ids) == (composed, "b") or tuple(dataset.ids) == ("b", composed)
    assert dataset.has_mask(composed) and dataset.read_image(composed).shape == (3, 48, 48)
    listed = write_lines(tmp_path / "list.txt", f"images/{decomposed}.jpg", "b.JPG")
    assert read_list(listed, dataset) == (composed, "b")


def test_two_files_of_one_nfc_name_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path / "d", tuple(unicodedata.normalize(form, "ü") for form in ("NFC", "NFD")), ())
    with refused("same stem", "Rename one of the two"):
        open_dataset(root)


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    root = make(tmp_path / "d", ("a/x",), ("a/x", "b/y"))
    elsewhere = tmp_path / "elsewhere"
    write_image(elsewhere / "y.jpg", 1)
    (root / "images/b").symlink_to(elsewhere)
    (root / "images/c.jpg").symlink_to(elsewhere / "y.jpg")
    (root / "images/a/loop").symlink_to(root / "images")
    (elsewhere / "back").symlink_to(root / "images/a")
    (root / "images/itself").symlink_to("itself")
    assert tuple(open_dataset(root).ids) == ("a/x", "b/y", "c")


def test_hidden_folders_are_skipped(tmp_path: Path) -> None:
    root = make(tmp_path / "d", ("a", ".thumbnails/a", "b/.git/c", "b/c"), ("a",))
    assert tuple(open_dataset(root).ids) == ("a", "b/c")


def test_flat_listing_ignores_subfolders(tmp_path: Path) -> None:
    assert list(list_files(make(tmp_path / "d") / "images", (".jpg",))) == ["top"]


@pytest.mark.parametrize(
    ("line", "id"),
    [
        ("2023/site a/img03", "2023/site a/img03"),
        ("images/2023/site a/img03.JPG", "2023/site a/img03"),
        ("/data/d/images/2024/img03.jpg", "2024/img03"),
        (r"images\2024\img03.jpg", "2024/img03"),
        ("./2024/img03.jpg", "2024/img03"),
        ("img04", "2023/site a/img04"),
        ("site a/img04.JPG", "2023/site a/img04"),
        ("images/top.JPG masks/top.png", "top"),
        ("images/2024/img03.JPG\tmasks/2024/img03.png", "2024/img03"),
    ],
)
def test_list_entries_name_nested_images(tmp_path: Path, line: str, id: str) -> None:
    dataset = open_dataset(make(tmp_path / "d"))
    assert read_list(write_lines(tmp_path / "list.txt", line), dataset) == (id,)


def test_ambiguous_entry_names_both_images(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path / "d"))
    with refused("list.txt", "'img03' may be 2023/site a/img03 or 2024/img03", "Write the folder"):
        read_list(write_lines(tmp_path / "list.txt", "img03.jpg"), dataset)


def test_entry_of_another_folder_is_not_an_image(tmp_path: Path) -> None:
    """A wrong image of the same name would be a silent error."""
    dataset = open_dataset(make(tmp_path / "d"))
    with refused("'2024/img04.jpg' is not an image"):
        read_list(write_lines(tmp_path / "list.txt", "2024/img04.jpg"), dataset)
    with refused("'2024/top.jpg' is not an image"):
        read_list(write_lines(tmp_path / "list.txt", "2024/top.jpg"), dataset)
    missing: list[str] = []
    assert read_list(write_lines(tmp_path / "list.txt", "2024/img04.jpg", "top"), dataset, missing) == ("top",)
    assert missing == ["2024/img04"]


PARTS = st.text(st.sampled_from("abü. "), min_size=1, max_size=3).filter(lambda s: s.strip(" .") == s)


@given(st.sets(st.lists(PARTS, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8))
def test_lookup_finds_every_id_by_its_path(ids: set[str]) -> None:
    lookup = IdLookup(ids)
    for id in ids:
        assert lookup.find(id) == id
        assert lookup.find(f"{id}.png") in ({id} if f"{id}.png" not in ids else {f"{id}.png"})


def test_write_folder_keeps_subfolders(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path / "d"))
    copy = open_dataset(write_folder(dataset, tmp_path / "copy"))
    assert tuple(copy.ids) == IDS and copy.has_mask(IDS[0]) and not copy.has_mask("top")


def test_sample_pictures_get_different_names() -> None:
    assert file_names(["a/x", "b/x"]) == ["a_x", "b_x"]
    assert file_names(["a/x", "a_x"]) == ["1_a_x", "2_a_x"]
    assert file_names(["y" * 200, "x"]) == ["y" * 100, "x"]


def test_shards_keep_subfolders(tmp_path: Path) -> None:
    root = make(tmp_path / "d")
    assert list(find_images(root)) == list(find_images(root / "images")) == list(IDS)


@pytest.mark.parametrize(
    ("mask", "image"),
    [
        ("img_0004", "IMG_0004"),
        ("IMG_0004_mask", "IMG_0004"),
        ("IMG_0004.JPG", "IMG_0004"),
        ("mask-img_0004", "IMG_0004"),
        ("IMG_0004 GT", "IMG_0004"),
        ("a/x_labels", "a/x"),
    ],
)
def test_misnamed_masks_are_refused_with_the_import_command(tmp_path: Path, mask: str, image: str) -> None:
    """Training on the masks that do match would silently use fewer labels."""
    root = make(tmp_path / "d", (image, "other"), ("other", mask))
    with refused(f"masks/{mask}.png", f"{Path(image).name}.JPG", f"Run: semiseg import {root} --out {root}-semiseg"):
        open_dataset(root)
    problems = check_data(root)[0].with_severity("problem")
    assert any("differs from that of its image" in finding.text for finding in problems)


def test_masks_of_removed_images_are_no_error(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path / "d", ("seq_01", "seq_02"), ("seq_01", "seq_02_5", "seq_0", "seq_01_mask")))
    assert [id for id in dataset.ids if dataset.has_mask(id)] == ["seq_01"]


def test_masks_of_unsupported_images_are_not_called_misnamed(tmp_path: Path) -> None:
    root = make(tmp_path / "d", ("a",), ("a", "b", "c"))
    for name in ("b.dcm", "c.mov", "d.mov"):
        (root / "images" / name).write_bytes(b"?")
    findings = {finding.kind: finding for finding in check_data(root)[0].findings}
    assert "mask-without-image" not in findings
    assert findings["skipped-images"].text == (
        "2 images with a mask of a type that is not read: images/b.dcm, images/c.mov"
    )
    assert findings["other-files"].files == ("images/d.mov",)
    assert unread_files_note(root) == (
        "warning: 3 files in images/ are of a type that is not read: images/b.dcm, images/c.mov, images/d.mov; "
        "2 of them have a mask; 1 .dcm (DICOM: convert to PNG or TIFF), 2 .mov (video: extract its frames)"
    )
    (root / "masks/a.png").unlink()
    with refused("its image is a", "file, which is not read", "Convert the images"):
        open_dataset(root)


def test_listing_keeps_the_order_of_ids(tmp_path: Path) -> None:
    root = make(tmp_path / "d", ("b/1", "b-1", "a/2", "a"), ())
    assert list(list_files(root / "images", (".jpg",), nested=True)) == sorted(("b/1", "b-1", "a/2", "a"))


def test_derived_data_keep_subfolders(tmp_path: Path) -> None:
    root = make(tmp_path / "d")
    out = make_split(root, tmp_path / "scribbles", scribbles=0.5)
    derived = open_dataset(out)
    assert tuple(derived.ids) == IDS and derived.has_mask("2024/img03")
    assert (out / "images/2024/img03.JPG").is_file()
