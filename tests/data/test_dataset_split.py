"""Labeled, unlabeled, validation and test lists."""

from pathlib import Path

import pytest

from semiseg.data import FolderDataset, Shapes, Split, check_masks, open_dataset, read_split, resolve_split, write_split
from semiseg.errors import UserError


@pytest.fixture
def dataset(tiny_folder: Path) -> FolderDataset:
    return FolderDataset(tiny_folder)


def lists(split: Split) -> tuple[tuple[str, ...], ...]:
    return split.labeled, split.unlabeled, split.val, split.test


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path


def test_all_masks_are_labeled_by_default(dataset: FolderDataset) -> None:
    dataset.masks.pop("train00003")
    split = resolve_split(dataset, None, 0)
    assert len(split.labeled) == 11 and split.unlabeled == ("train00003",)
    assert split.val == dataset.split("val") and split.test == dataset.split("test") and split.notes == ()


@pytest.mark.parametrize(("labeled", "count"), [("1/4", 3), ("1/16", 1), ("5", 5), ("12", 12), ("1/1", 12)])
def test_sampled_labels(dataset: FolderDataset, labeled: str, count: int) -> None:
    train = dataset.split("train")
    assert train is not None
    for id in train[: 0 if count == 12 else 5]:
        dataset.masks.pop(id)
    split = resolve_split(dataset, labeled, 3)
    assert len(split.labeled) == count and all(dataset.has_mask(id) for id in split.labeled)
    assert sorted((*split.labeled, *split.unlabeled)) == sorted(train)
    assert lists(split) == lists(resolve_split(dataset, labeled, 3))


def test_seed_changes_sampled_labels() -> None:
    dataset = Shapes(images=100, val=1, test=1, size=48)
    assert resolve_split(dataset, "1/16", 0).labeled != resolve_split(dataset, "1/16", 1).labeled


def test_published_lists_are_used_for_their_seed(tiny_folder: Path) -> None:
    directory = tiny_folder / "splits" / "1_4" / "seed2"
    write(directory / "labeled.txt", "train00000", "train00007")
    write(directory / "unlabeled.txt", "train00001")
    dataset = FolderDataset(tiny_folder)
    split = resolve_split(dataset, "1/4", 2)
    assert split.labeled == ("train00000", "train00007") and split.unlabeled == ("train00001",)
    assert any("lists that come with" in note for note in split.notes)
    assert len(resolve_split(dataset, "1/4", 0).labeled) == 3


def test_labels_from_file(dataset: FolderDataset, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"\xef\xbb\xbftrain00002\r\n\r\n  images/train00004.png\r\ntrain00001 \r\n")
    split = resolve_split(dataset, str(path), 0)
    assert split.labeled == ("train00002", "train00004", "train00001")
    assert len(split.unlabeled) == 9


def test_stems_with_dots_and_spaces(dataset: FolderDataset, tmp_path: Path) -> None:
    dataset.ids = (*dataset.ids, "my photo 1.2")
    dataset.masks["my photo 1.2"] = dataset.masks["train00000"]
    (dataset.root / "splits" / "train.txt").unlink()
    for line in ("my photo 1.2", "my photo 1.2.jpg"):
        assert resolve_split(dataset, str(write(tmp_path / "l.txt", line)), 0).labeled == ("my photo 1.2",)


def test_train_list_defaults_to_unlisted_images(tiny_folder: Path) -> None:
    (tiny_folder / "splits" / "train.txt").unlink()
    split = resolve_split(FolderDataset(tiny_folder), None, 0)
    assert all(id.startswith("train") for id in split.labeled) and len(split.labeled) == 12


def test_test_images_without_mask_are_left_out_with_note(dataset: FolderDataset) -> None:
    dataset.masks.pop("test00001")
    split = resolve_split(dataset, None, 0)
    assert split.test == ("test00000", "test00002") and "1 of 3 test images" in split.notes[0]


@pytest.mark.parametrize(
    ("labeled", "message"),
    [
        ("13", "13 labeled images requested, but 12"),
        ("0", "0 labeled"),
        ("3/2", "not a share"),
        ("0/4", "not a share"),
        ("1/0", "not a share"),
        ("0.5", "no such file"),
        ("nowhere.txt", "no such file"),
    ],
)
def test_invalid_labeled_option_fails(dataset: FolderDataset, labeled: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_split(dataset, labeled, 0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("train00000", "train99999"), "'train99999' is not an image"),
        (("train00000", "train00000.png"), "twice"),
        (("val00000",), "not among the training images"),
        (("train00005",), "has no mask"),
        ((), "empty"),
    ],
)
def test_invalid_label_file_is_named(
    dataset: FolderDataset, tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    dataset.masks.pop("train00005")
    path = write(tmp_path / "mine.txt", *lines)
    with pytest.raises(UserError, match=message) as caught:
        resolve_split(dataset, str(path), 0)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_invalid_lists_of_data_set_fail(tiny_folder: Path) -> None:
    splits = tiny_folder / "splits"
    write(splits / "val.txt", "val00000", "missing")
    with pytest.raises(UserError, match=r"val\.txt: 'missing' is not an image"):
        resolve_split(open_dataset(tiny_folder), None, 0)
    write(splits / "val.txt", "val00000", "train00001")
    with pytest.raises(UserError, match="'train00001' is in the labeled and the val list"):
        resolve_split(open_dataset(tiny_folder), None, 0)
    write(splits / "val.txt", "test00000")
    with pytest.raises(UserError, match="'test00000' is in the val and the test list"):
        resolve_split(open_dataset(tiny_folder), None, 0)
    write(splits / "val.txt")
    with pytest.raises(UserError, match="val list is empty"):
        resolve_split(open_dataset(tiny_folder), None, 0)
    write(splits / "val.txt", "val00000")
    (tiny_folder / "masks" / "val00000.png").unlink()
    with pytest.raises(UserError, match="'val00000' in the val list has no mask"):
        resolve_split(open_dataset(tiny_folder), None, 0)


def test_overlapping_published_lists_fail(tiny_folder: Path) -> None:
    directory = tiny_folder / "splits" / "1_4" / "seed0"
    write(directory / "labeled.txt", "train00000")
    write(directory / "unlabeled.txt", "train00000", "train00001")
    with pytest.raises(UserError, match="'train00000' is in the labeled and the unlabeled list"):
        resolve_split(open_dataset(tiny_folder), "1/4", 0)


def test_write_and_read_split(dataset: FolderDataset, tmp_path: Path) -> None:
    split = resolve_split(dataset, "1/4", 0)
    write_split(split, tmp_path / "splits")
    assert lists(read_split(tmp_path / "splits")) == lists(split) == lists(read_split(tmp_path / "splits", dataset))
    write(tmp_path / "splits" / "labeled.txt", "gone")
    with pytest.raises(UserError, match="'gone' is not an image"):
        read_split(tmp_path / "splits", dataset)
    (tmp_path / "splits" / "val.txt").unlink()
    with pytest.raises(UserError, match=r"val\.txt: cannot be read"):
        read_split(tmp_path / "splits")


def test_resolve_split_opens_no_mask(dataset: FolderDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FolderDataset, "read_mask", lambda self, id: pytest.fail(f"the mask of {id} was opened"))
    resolve_split(dataset, "1/4", 0)


def test_check_masks_counts_pixels(dataset: FolderDataset) -> None:
    counts = check_masks(dataset, dataset.ids)
    expected = [sum(int((dataset.read_mask(id) == k).sum()) for id in dataset.ids) for k in range(len(dataset.classes))]
    assert list(counts) == expected and sum(counts) == 18 * 48 * 48
    dataset.masks.pop("train00004")
    with pytest.raises(UserError, match=r"train00004\.png: the image has no mask"):
        check_masks(dataset, ["train00003", "train00004"])
