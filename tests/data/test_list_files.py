"""Lists in every published format, and pickled permutations: what is read and what is refused."""

from __future__ import annotations

import itertools
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from semiseg.data import SegmentationDataset, open_dataset, resolve_split
from semiseg.data.splits.list_files import matching_unlabeled_list, read_list, read_permutation
from trees import VOC_TRAIN, VOC_VAL, make_voc, refused, write_lines


class NamesOnly(SegmentationDataset):
    """Images that have only names."""

    name, root = "names", None

    def __init__(self, ids: set[str], image_ending: str = "") -> None:
        self.ids, self.image_ending = tuple(sorted(ids)), image_ending

    def read_image(self, id: str) -> Tensor:
        raise NotImplementedError

    def read_mask(self, id: str) -> Tensor:
        raise NotImplementedError

    def has_mask(self, id: str) -> bool:
        return True


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "voc")


@pytest.mark.parametrize(
    "text",
    [
        "a1\nb 2\nc.3\n",
        "a1\r\nb 2\r\n\r\nc.3",
        "\n/images/a1.jpg\n  images/b 2.JPG \nc.3.png\n\n",
        "images/a1.jpg masks/a1.png\nimages/b 2.jpg masks/b 2.png\nx\\c.3.jpg y\\c.3.png",
        "/i/a1.png\t/m/a1_gtFine.png\n/i/b 2.png\t/m/b 2_gtFine.png\nc.3\tc.3\n",
        "a1_left.png\nb 2_left\nc.3_left.png gt/c.3_gtFine_labelTrainIds.png\n",
        "\ufeffa1 a1\nb 2\nc.3 c.3.png",
    ],
)
def test_every_published_line_format(tmp_path: Path, text: str) -> None:
    path = tmp_path / "l.txt"
    path.write_bytes(text.encode())
    assert read_list(path, NamesOnly({"a1", "b 2", "c.3"}, "_left")) == ("a1", "b 2", "c.3")


@pytest.mark.parametrize("line", ["a1.jpg c.png", "i/a1.png\tm/c_gtFine.png", "a1 c"])
def test_mask_of_another_image_fails(tmp_path: Path, line: str) -> None:
    with refused("l.txt", "mask of another image"):
        read_list(write_lines(tmp_path / "l.txt", line), NamesOnly({"a1", "c"}))


def test_missing_images_fail_or_are_collected(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "l.txt", "JPEGImages/a.jpg SegmentationClass/a.png", "JPEGImages/b.jpg x/b.png", "c")
    with refused("l.txt", "JPEGImages/a.jpg", "not an image of names"):
        read_list(path, NamesOnly({"b", "c"}))
    missing: list[str] = []
    assert read_list(path, NamesOnly({"c"}), missing) == ("c",) and missing == ["a", "b"]


@pytest.mark.parametrize("lines", [("a", "x/a.jpg"), ("a", "gone", "gone.jpg")])
def test_duplicates_fail(tmp_path: Path, lines: tuple[str, ...]) -> None:
    with refused("l.txt", "twice"):
        read_list(write_lines(tmp_path / "l.txt", *lines), NamesOnly({"a"}), [])


def test_matching_unlabeled_list(tmp_path: Path) -> None:
    pairs = {
        "labeled.txt": "unlabeled.txt",
        "train_aug_labeled_1-8.txt": "train_aug_unlabeled_1-8.txt",
        "training631_l.txt": "training631_u.txt",
    }
    for labeled, unlabeled in pairs.items():
        assert matching_unlabeled_list(tmp_path / labeled) is None
        write_lines(tmp_path / unlabeled)
        assert matching_unlabeled_list(tmp_path / labeled) == tmp_path / unlabeled
        assert matching_unlabeled_list(tmp_path / unlabeled) is None
    assert matching_unlabeled_list(tmp_path / "mine.txt") is None


def test_precedence_of_unlabeled_lists(root: Path, tmp_path: Path) -> None:
    dataset = open_dataset(root)
    alone = write_lines(tmp_path / "mine" / "some.txt", *VOC_TRAIN[:2])
    assert resolve_split(dataset, str(alone), 0).unlabeled == VOC_TRAIN[2:]
    labeled = write_lines(tmp_path / "pair" / "labeled.txt", *VOC_TRAIN[:2])
    neighbor = write_lines(tmp_path / "pair" / "unlabeled.txt", *VOC_TRAIN[3:5])
    split = resolve_split(dataset, str(labeled), 0)
    assert split.unlabeled == VOC_TRAIN[3:5] and f"{neighbor} next to" in split.notes[0]
    other = write_lines(tmp_path / "other.txt", VOC_TRAIN[6])
    for option in (str(labeled), "2", str(alone)):
        split = resolve_split(dataset, option, 0, str(other))
        assert split.unlabeled == (VOC_TRAIN[6],) and not any("next to" in note for note in split.notes)


def test_contradicting_lists_fail(root: Path, tmp_path: Path) -> None:
    labeled = write_lines(tmp_path / "labeled.txt", *VOC_TRAIN[:2])
    write_lines(tmp_path / "unlabeled.txt", VOC_TRAIN[1])
    with refused(VOC_TRAIN[1], "labeled and the unlabeled list"):
        resolve_split(open_dataset(root), str(labeled), 0)
    write_lines(tmp_path / "unlabeled.txt", VOC_VAL[0])
    with refused(VOC_VAL[0], "unlabeled and the val list"):
        resolve_split(open_dataset(root), str(labeled), 0)


def test_list_of_missing_images_fails(root: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.txt", "2012_000001", "2012_000002")
    with refused(str(path), "none of its 2 images"):
        resolve_split(open_dataset(root), str(path), 0, existing_only=True)
    with refused("nowhere.txt", "cannot be read"):
        resolve_split(open_dataset(root), None, 0, str(tmp_path / "nowhere.txt"))
    write_lines(root / "splits" / "val.txt", "2012_000001")
    with refused("the val list", "none of its 1 images"):
        resolve_split(open_dataset(root), "2", 0, existing_only=True)


# The pickled permutation.


@pytest.mark.parametrize("protocol", [2, 3, 4])  # the published files use 3
def test_permutation_of_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    order = np.array([3, 0, 7, 1, 2, 6, 5, 4])
    path = tmp_path / "split_0.pkl"
    path.write_bytes(pickle.dumps(order, protocol))
    assert read_permutation(path) == order.tolist()


def test_first_of_permutation_are_labeled(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "split_0.pkl"
    path.write_bytes(pickle.dumps(np.array([3, 0, 7, 1, 2, 6, 5, 4])))
    split = resolve_split(open_dataset(root), f"{path}:3", 0)
    assert split.labeled == (VOC_TRAIN[3], VOC_TRAIN[0], VOC_TRAIN[7])
    assert set(split.unlabeled) == set(VOC_TRAIN) - set(split.labeled)
    (root / "JPEGImages" / f"{VOC_TRAIN[0]}.jpg").unlink()
    split = resolve_split(open_dataset(root), f"{path}:3", 0, existing_only=True)
    assert split.labeled == (VOC_TRAIN[3], VOC_TRAIN[7])  # indices refer to the complete list
    for option in (str(path), f"{path}:0", f"{path}:8"):
        with refused(str(path), "how many of its 8"):
            resolve_split(open_dataset(root), option, 0, existing_only=True)
    path.write_bytes(pickle.dumps(np.arange(9)))
    with refused(str(path), "permutes 9 images", "has 8"):
        resolve_split(open_dataset(root), f"{path}:3", 0, existing_only=True)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def test_pickle_with_code_is_not_executed(tmp_path: Path) -> None:
    path, marker = tmp_path / "split_0.pkl", tmp_path / "ran"
    for content in (Malicious(marker), [np.arange(3), Malicious(marker)], np.array([Malicious(marker)], dtype=object)):
        path.write_bytes(pickle.dumps(content))
        with refused(str(path), "refused", "mkdir"):
            read_permutation(path)
    assert not marker.exists()


def test_pickled_dtype_flags_are_not_trusted(tmp_path: Path) -> None:
    """NumPy would interpret integers with these flags as references to objects."""

    class Forged:
        def __reduce__(self) -> tuple[object, ...]:
            kind, values, state = np.arange(3).__reduce__()
            return kind, values, (*state[:2], Flagged(), *state[3:])

    class Flagged:
        def __reduce__(self) -> tuple[object, ...]:
            kind, values, state = np.dtype("i8").__reduce__()
            return kind, values, (*state[:-1], 63)

    path = tmp_path / "split_0.pkl"
    path.write_bytes(pickle.dumps(Forged(), 2))
    assert read_permutation(path) == [0, 1, 2]


def test_other_pickled_content_fails(tmp_path: Path) -> None:
    path = tmp_path / "split_0.pkl"
    arrays = (np.array([0, 0, 1]), np.array([1, 2]), np.array([0.0, 1.0]), np.eye(2, dtype=int), np.arange(0))
    for content in (*map(pickle.dumps, (*arrays, [0, 1], None)), b"", b"no pickle", pickle.dumps(np.arange(9))[:-20]):
        path.write_bytes(content)
        with refused(str(path)):
            read_permutation(path)
    with refused("cannot be read"):
        read_permutation(tmp_path / "nowhere.pkl")


# Published lists.


def names(path: Path) -> set[str]:
    """Return the ids of a list without using the reader."""
    words = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    return {re.sub(r"(_leftImg8bit)?\.(jpg|png)$", "", word.rsplit("/", 1)[-1]) for word in words}


def read_all(paths: list[Path], count: int) -> dict[Path, set[str]]:
    """Read lists of a data set with all the images they name, which must be ``count``."""
    dataset = NamesOnly(set().union(*map(names, paths)), "_leftImg8bit")
    assert len(dataset) == count
    found = {path: read_list(path, dataset) for path in paths}
    assert all(set(ids) == names(path) for path, ids in found.items())
    return {path: set(ids) for path, ids in found.items()}


def assert_pair(lists: dict[Path, set[str]], labeled: Path, count: int, whole: int) -> set[str]:
    """Check that a list and its unlabeled list are disjoint and complete. Return the former."""
    unlabeled = matching_unlabeled_list(labeled)
    assert unlabeled is not None and len(lists[labeled]) == count
    assert not lists[labeled] & lists[unlabeled] and len(lists[labeled] | lists[unlabeled]) == whole
    return lists[labeled]


@pytest.mark.slow
def test_voc_lists(voc_dir: Path, list_dir: Path) -> None:
    splits = voc_dir / "splits"
    folders = [path.parent for path in sorted(splits.glob("*/labeled.txt"))]
    others = [list_dir / "pseudoseg/16_clean_3.txt", *sorted((list_dir / "cps_voc").glob("*.txt"))]
    others += sorted((list_dir / "u2pl" / "pascal_92").glob("*.txt"))
    pairs = [folder / f"{name}.txt" for folder in folders for name in ("labeled", "unlabeled")]
    lists = read_all([splits / "train_aug.txt", splits / "val.txt", *pairs, *others], 10582 + 1449)
    assert (len(lists[splits / "train_aug.txt"]), len(lists[splits / "val.txt"])) == (10582, 1449)

    counts = {"1_16": 662, "1_8": 1323, "1_4": 2646}
    counts |= {f"u2pl_{name}": count for name, count in counts.items()}
    counts |= {str(count): count for count in (92, 183, 366, 732, 1464)}
    assert {folder.name for folder in folders} == counts.keys()
    ours = {f.name: assert_pair(lists, f / "labeled.txt", counts[f.name], 10582) for f in folders}
    high_quality = ours["1464"]
    shares = {name: round(100 * len(ids & high_quality) / len(ids), 1) for name, ids in ours.items()}
    assert [shares[name] for name in ("1_16", "1_8", "1_4")] == [14.0, 14.6, 14.7]
    assert [round(shares[f"u2pl_{name}"]) for name in ("1_16", "1_8", "1_4")] == [100, 100, 55]

    u2pl = list_dir / "u2pl" / "pascal_92" / "labeled.txt"
    assert ours["92"] == lists[list_dir / "pseudoseg/16_clean_3.txt"] == assert_pair(lists, u2pl, 92, 10582)
    pseudoseg, blended = (list_dir / "cps_voc" / f"{name}_labeled_1-16.txt" for name in ("pseudoseg", "train_aug"))
    assert ours["1_16"] == assert_pair(lists, blended, 662, 10582)
    unlabeled = matching_unlabeled_list(pseudoseg)
    assert (
        unlabeled is not None and ours["92"] == lists[pseudoseg] and high_quality == lists[pseudoseg] | lists[unlabeled]
    )
    assert lists[pseudoseg] & lists[unlabeled] == {"2008_004822"}  # published like this; training on this pair fails


def test_cityscapes_lists(list_dir: Path) -> None:
    paths = [*(list_dir / "cps_cityscapes").glob("*.txt"), *(list_dir / "u2pl" / "cityscapes_186").glob("*.txt")]
    paths += list((list_dir / "unimatch_cityscapes").rglob("*.txt"))
    lists = read_all(paths, 2975 + 500)
    unimatch = list_dir / "unimatch_cityscapes"
    assert len(lists[unimatch / "val.txt"]) == 500
    ours = assert_pair(lists, unimatch / "1_16" / "labeled.txt", 186, 2975)
    assert ours == assert_pair(lists, list_dir / "cps_cityscapes" / "train_aug_labeled_1-16.txt", 186, 2975)
    assert ours != assert_pair(lists, list_dir / "u2pl" / "cityscapes_186" / "labeled.txt", 186, 2975)


@pytest.mark.slow
def test_ade20k_lists(list_dir: Path) -> None:
    dual_teacher, unimatch = list_dir / "dual-teacher_ade20k", list_dir / "unimatch-v2_ade20k"
    lists = read_all([*dual_teacher.glob("*.txt"), *unimatch.rglob("*.txt")], 20210 + 2000)
    assert len(lists[unimatch / "val.txt"]) == 2000
    sizes = (631, 1263, 2526, 5052, 10105)
    ours = [assert_pair(lists, dual_teacher / f"training{size}_l.txt", size, 20210) for size in sizes]
    assert [small <= large for small, large in itertools.pairwise(ours)] == [True, True, True, False]
    theirs = assert_pair(lists, unimatch / "1_32" / "labeled.txt", 631, 20210)
    assert len(ours[0] & theirs) == 18


def test_cutmix_seg_permutation(list_dir: Path) -> None:
    order = read_permutation(list_dir / "cutmix-seg" / "split_0.pkl")
    assert sorted(order) == list(range(10582)) and order[0] == 3458
