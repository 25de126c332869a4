"""Class files of a plain folder: every format, files that disagree, and mask values that the file lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semiseg.data import FolderDataset, check_masks
from semiseg.data.class_file import find_class_file
from trees import refused, write_image, write_lines

VALUES = np.repeat(np.arange(48, dtype=np.uint8)[:, None] // 16, 48, axis=1)
NAMES = ("background", "square", "disc")


def make(root: Path, masks: dict[str, np.ndarray] | None = None) -> Path:
    """Write images a, b and c and the given masks; by default, one of the values 0, 1 and 2."""
    (root / "masks").mkdir(parents=True)
    for stem in ("a", "b", "c"):
        write_image(root / "images" / f"{stem}.png")
    for stem, values in (masks or {"a": VALUES}).items():
        Image.fromarray(values).save(root / "masks" / f"{stem}.png")
    return root


def write_json(root: Path, **content: object) -> None:
    (root / "classes.json").write_text(json.dumps(content), encoding="utf-8")


FORMS = {
    "classes.txt": "background\nsquare\ndisc\n",
    "class_names.txt": "background\r\nsquare\r\ndisc\r\n",
    "labels.txt": "__ignore__\nbackground\nsquare\ndisc\n",
    "_classes.csv": "Pixel Value, Class\n0, background\n1, square\n2, disc\n",
    "data.yaml": "train: ../train/images\nnc: 3\nnames: [background, square, disc]\n",
    "label_colors.txt": "0 0 0 background\n220 20 60 square\n0 160 80 disc\n",
}


@pytest.mark.parametrize("name", FORMS)
def test_class_files_of_other_tools(tmp_path: Path, name: str) -> None:
    root = make(tmp_path / "data")
    (root / name).write_text(FORMS[name], encoding="utf-8")
    dataset = FolderDataset(root)
    assert dataset.classes == NAMES
    assert np.array_equal(dataset.read_mask("a").numpy(), VALUES)


def test_names_of_yolo_by_number(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    (root / "data.yaml").write_text("names:\n  1: square\n  0: background\n  2: disc\n")
    assert FolderDataset(root).classes == NAMES
    assert FolderDataset(root).notes == [
        "classes come from data.yaml, so in masks 0 is background, 1 is square, 2 is disc"
    ]
    (root / "data.yaml").write_text("path: elsewhere\n")  # names no classes
    assert FolderDataset(root).classes == ("class0", "class1", "class2")


@pytest.mark.parametrize("separator", [" ", ": ", "\t", " - ", ","])
def test_numbers_of_lines_are_not_part_of_names(tmp_path: Path, separator: str) -> None:
    root = make(tmp_path / "data")
    write_lines(root / "classes.txt", *(f"{value}{separator}{name}" for value, name in enumerate(NAMES)))
    assert FolderDataset(root).classes == NAMES


def test_other_numbers_of_lines_fail(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    write_lines(root / "classes.txt", "0 background", "255 plant")
    with refused("classes.txt", "numbered 0, 255", '{"values": {"0": "background", "255": "plant"}}', "only the names"):
        FolderDataset(root)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_fails(tmp_path: Path, encoding: str) -> None:
    root = make(tmp_path / "data")
    (root / "classes.txt").write_bytes("background\r\nsquare\r\n".encode(encoding))
    with refused("classes.txt", "UTF-16", "Save it as UTF-8"):
        FolderDataset(root)


def test_byte_order_mark_is_not_part_of_a_name(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    (root / "classes.txt").write_bytes(b"\xef\xbb\xbfbackground\r\nsquare\r\ndisc\r\n")
    assert FolderDataset(root).classes == NAMES


def test_files_that_agree(tmp_path: Path) -> None:
    root = make(
        tmp_path / "data", {"a": VALUES, "b": np.array([[0, 0, 0], [220, 20, 60]], np.uint8)[VALUES.clip(0, 1)]}
    )
    write_lines(root / "classes.txt", "_background_", "Square", "disc")
    write_lines(root / "palette.txt", "background 0 0 0", "square 220 20 60", "disc 0 160 80")
    (root / "data.yaml").write_text("names: [square, disc]\n")  # YOLO has no background
    dataset = FolderDataset(root)
    assert dataset.classes == ("_background_", "Square", "disc")
    assert dataset.palette == ((0, 0, 0), (220, 20, 60), (0, 160, 80))
    assert np.array_equal(dataset.read_mask("a").numpy(), VALUES)
    assert np.array_equal(dataset.read_mask("b").numpy(), VALUES.clip(0, 1))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("class_names.txt", "background\ndisc\nsquare\n", "list different classes: square and disc"),
        ("labels.txt", "background\nsquare\n", "3 and 2 classes"),
        ("palette.txt", "background 0 0 0\nvoid 9 9 9\nsquare 1 1 1\ndisc 2 2 2\n", "value 1 different meanings"),
    ],
)
def test_files_that_disagree_fail(tmp_path: Path, name: str, content: str, words: str) -> None:
    root = make(tmp_path / "data")
    write_lines(root / "classes.txt", *NAMES)
    (root / name).write_text(content)
    with refused(f"classes.txt and {name}", words):
        FolderDataset(root)


def test_second_file_of_another_form_is_noted(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    write_lines(root / "classes.txt", *NAMES)
    (root / "_classes.csv").write_text("filename, plant\na.jpg, 1\n")
    dataset = FolderDataset(root)
    assert dataset.classes == NAMES and "_classes.csv is not used" in dataset.notes[0]


# Values.


def test_values_name_classes(tmp_path: Path) -> None:
    levels = np.array([0, 128, 255], dtype=np.uint8)
    root = make(tmp_path / "data", {"a": levels[VALUES], "b": levels[VALUES.clip(0, 1)]})
    write_json(root, values={"0": "soil", "128": "ignore", "255": "plant"})
    dataset = FolderDataset(root)
    assert dataset.classes == ("soil", "plant") and list(dataset.file_values) == [0, 255]
    assert np.array_equal(dataset.read_mask("a").numpy(), np.array([0, 255, 1])[VALUES])
    write_json(root, classes=["plant", "soil"], values={"0": "soil", "128": "plant", "255": 0})
    assert np.array_equal(FolderDataset(root).read_mask("a").numpy(), np.array([1, 0, 0])[VALUES])
    assert check_masks(FolderDataset(root), ["a", "b"]) == (32 * 48 + 32 * 48, 16 * 48 + 16 * 48)


def test_values_that_are_not_listed_fail(tmp_path: Path) -> None:
    root = make(tmp_path / "data", {"a": np.array([0, 1, 255], dtype=np.uint8)[VALUES]})
    write_json(root, values={"0": "soil", "1": "plant"})
    with refused("a.png", "value 255 is not one of the 2 classes", "classes.json lists the values 0, 1"):
        FolderDataset(root).read_mask("a")
    write_json(root, values={"0": "soil", "1": "plant"}, ignore=255)
    assert FolderDataset(root).read_mask("a")[47, 0] == 255


def test_values_of_16_bits(tmp_path: Path) -> None:
    root = make(tmp_path / "data", {"a": np.array([0, 65535, 65535], dtype=np.uint16)[VALUES]})
    with refused('{"values": {"0": "background", "65535": "foreground"}}'):
        FolderDataset(root)
    write_json(root, values={"0": "soil", "65535": "plant"})
    assert np.array_equal(FolderDataset(root).read_mask("a").numpy(), VALUES.clip(0, 1))


def test_values_with_colors(tmp_path: Path) -> None:
    colors = np.array([[0, 0, 0], [255, 255, 255]], dtype=np.uint8)
    root = make(tmp_path / "data", {"a": VALUES.clip(0, 1) * np.uint8(255), "b": colors[VALUES.clip(0, 1)]})
    write_json(root, values={"0": "soil", "255": "plant"}, palette=colors.tolist())
    for id in ("a", "b"):
        assert np.array_equal(FolderDataset(root).read_mask(id).numpy(), VALUES.clip(0, 1))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"values": {"x": "a"}}, "'x' in values is not an integer from -32768 to 65535"),
        ({"values": {"-1": "a"}}, 'the negative value -1 can only be "ignore"'),
        ({"values": {"70000": "a"}}, "'70000' in values"),
        ({"classes": ["plant", "soil"], "values": {"0": "plnt"}}, "did you mean plant?"),
        ({"classes": ["plant"], "values": {"0": 1}}, "1 in values is not a class"),
        ({"classes": ["plant"], "values": {"0": True}}, "True in values is not a class"),
        ({"classes": ["plant"], "values": []}, "cannot be used"),
        ({"classes": ["plant"], "values": {}}, "values lists no value"),
        ({"classes": ["plant"], "values": {"0": ["plant"]}}, "['plant'] in values is not a class"),
        ({"values": {}}, "cannot be used"),
    ],
)
def test_malformed_values_fail(tmp_path: Path, content: dict[str, object], words: str) -> None:
    root = make(tmp_path / "data")
    write_json(root, **content)
    with refused("classes.json", words, "values"):
        FolderDataset(root)


def test_classes_json_about_images_only(tmp_path: Path) -> None:
    root = make(tmp_path / "data")
    write_json(root, white=4095)
    write_lines(root / "classes.txt", *NAMES)
    assert FolderDataset(root).classes == NAMES


def test_values_that_contradict_ignore_fail(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('{"values": {"0": "soil", "255": "plant"}, "ignore": 255}')
    with refused("classes.json", "values makes 255 the class plant, but ignore is 255", 'write "255": "ignore"'):
        find_class_file(tmp_path, [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('["soil", "plant"]', "the file holds a list instead of an object in braces"),
        ('{"values": ["soil", "plant"]}', "values must be an object"),
        ('{"classes": {"0": "soil"}}', "classes must be a list of names"),
        ('{"classes": ["soil"], "palette": [0, 0, 0]}', "palette must be a list of colors"),
    ],
)
def test_other_json_types_fail(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "classes.json").write_text(content)
    with refused("classes.json", words, 'Write {"classes": ["name", ...]'):
        find_class_file(tmp_path, [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("# my classes\nsoil\nplant\n", ("'# my classes' may be a comment or a class", "remove it")),
        ("soil, plant\n", ("'soil, plant' is one line", "one name per line")),
        ("soil 0\nleaf 2\nstem 1\n", ("numbered 0, 2, 1", '"values": {"0": "soil", "2": "leaf", "1": "stem"}')),
    ],
)
def test_lines_of_unclear_meaning_fail(tmp_path: Path, content: str, words: tuple[str, str]) -> None:
    (tmp_path / "classes.txt").write_text(content)
    with refused("classes.txt", words[0], words[1][1:]):
        find_class_file(tmp_path, [])
