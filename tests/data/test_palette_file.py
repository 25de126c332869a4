"""Plain folders with masks in the colors of a palette file: every supported format, and invalid files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semiseg.data import open_dataset
from semiseg.data.palette_file import read_palette
from trees import refused, write_image, write_lines

CAMVID = ("64 128 64\tAnimal", "0 0 0\t\tVoid", "192 0 128\tArchway", "0 128 192  Bicyclist", "192 0 64\tLaneMkgsDriv")
COLORS = [(64, 128, 64), (0, 0, 0), (192, 0, 128), (0, 128, 192), (192, 0, 64)]
MEANING = [0, 255, 1, 2, 3]


def make(root: Path, name: str, lines: tuple[str, ...]) -> Path:
    """Write two images of 48 pixels, masks of stripes in these colors (one named like CamVid's) and a palette file."""
    for stem in ("a", "b", "c"):
        write_image(root / "images" / f"{stem}.png")
    stripes = np.repeat(np.array(COLORS, dtype=np.uint8), 10, axis=0)[:48]
    (root / "masks").mkdir()
    for stem in ("a", "b_L"):
        Image.fromarray(np.repeat(stripes[:, None], 48, axis=1)).save(root / "masks" / f"{stem}.png")
    write_lines(root / name, *lines)
    return root


FORMS = {
    "label_colors.txt": CAMVID,
    "class_dict.csv": ("name,r,g,b", "Animal,64,128,64", "Void,0,0,0", "Archway, 192, 0, 128", "Bicyclist,0,128,192",
                       "LaneMkgsDriv,192,0,64"),
    "palette.txt": ("# mine", "Animal 64 128 64", "Void 0 0 0", "Archway 192 0 128", "Bicyclist\t0\t128\t192",
                    "LaneMkgsDriv 192 0 64"),
    "palette.csv": ('"Name";"Red";"Green";"Blue"', '"Animal";64;128;64', "void;0;0;0", "Archway;192;0;128",
                    "Bicyclist;0;128;192", "LaneMkgsDriv;192;0;64"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_palette_file_format(tmp_path: Path, name: str) -> None:
    dataset = open_dataset(make(tmp_path / "data", name, FORMS[name]))
    assert dataset.classes == ("Animal", "Archway", "Bicyclist", "LaneMkgsDriv")
    assert dataset.palette == (COLORS[0], *COLORS[2:]) and [dataset.has_mask(id) for id in "abc"] == [True, True, False]
    expected = np.repeat(MEANING, 10)[:48]
    for id in "ab":
        assert (dataset.read_mask(id).numpy() == expected[:, None]).all()


def test_integers_are_palette_indices(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "label_colors.txt", CAMVID)
    values = np.full((48, 48), 255, dtype=np.uint8)
    values[:5] = np.arange(5)[:, None]
    Image.fromarray(values).save(root / "masks" / "a.png")
    assert open_dataset(root).read_mask("a")[:6, 0].tolist() == [*MEANING, 255]
    values[9] = 5
    Image.fromarray(values).save(root / "masks" / "a.png")
    with refused("a.png", "value 5", "label_colors.txt"):
        open_dataset(root).read_mask("a")


def test_names_with_spaces(tmp_path: Path) -> None:
    palette = read_palette(write_lines(tmp_path / "palette.txt", "leaf rust 1 2 3", "4 5 6 dry soil 2"))
    assert palette.names == ("leaf rust", "dry soil 2") and palette.colors == ((1, 2, 3), (4, 5, 6))


def test_color_outside_palette_fails(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "palette.txt", CAMVID[:4])
    with refused("a.png", "(192, 0, 64)", "palette.txt", "Add it"):
        open_dataset(root).read_mask("a")
    (root / "palette.txt").rename(root / "classes.txt")
    with refused("classes.txt", "names and colors", "Rename it to palette.txt"):
        open_dataset(root)
    write_lines(root / "classes.txt", "Animal", "Archway")
    with refused("a.png", "colors, such as (64, 128, 64)", "palette.txt", "NAME 64 128 64", "classes.json"):
        open_dataset(root).read_mask("a")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("sky 1 2",), "'sky 1 2' is not a name and a color"),
        (("1 2 3",), "'1 2 3' is not a name and a color"),
        (("sky 1 2 300",), "the color in 'sky 1 2 300' is not three numbers"),
        (("sky 1 2 3", "sea 1 2 3"), "color (1, 2, 3) is listed twice, first for sky"),
        (("sky 1 2 3", "sky 1 2 4"), "name sky is listed twice"),
        (("Void 0 0 0",), "0 classes in 1 lines"),
        ((), "0 classes in 0 lines"),
        (("sky 1 2 3", "name,r,g,b"), "'name,r,g,b' is not a name and a color"),
    ],
)
def test_invalid_palette_files_fail(tmp_path: Path, lines: tuple[str, ...], words: str) -> None:
    root = make(tmp_path / "data", "palette.txt", lines)
    with refused("palette.txt", words):
        open_dataset(root)
