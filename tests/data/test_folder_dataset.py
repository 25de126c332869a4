"""Plain folders: supported files, and one-line errors for all others."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semiseg.data import CamVid, FolderDataset, check_masks, open_dataset, read_image_file, resolve_split, write_folder
from semiseg.data.benchmarks.camvid import CLASSES
from trees import refused

RAMP = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def make(root: Path, masks: dict[str, np.ndarray], images: int = 4, classes: str | None = "a\nb\nc\n") -> Path:
    """Write images of 30 x 20 named 0, 1, ... and the given masks."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for index in range(images):
        Image.fromarray(RAMP + index).save(root / "images" / f"{index}.png")
    for name, mask in masks.items():
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root


def plain(value: int = 1) -> np.ndarray:
    return np.full((20, 30), value, dtype=np.uint8)


def test_written_folder_reads_back(tiny_folder: Path) -> None:
    dataset = open_dataset(tiny_folder)
    source = open_dataset("shapes:images=12,val=3,test=3,size=48,seed=7")
    assert isinstance(dataset, FolderDataset)
    assert (dataset.ids, dataset.classes, dataset.palette) == (source.ids, source.classes, source.palette)
    for index, id in enumerate(dataset.ids):
        sample = dataset[index]
        assert sample.id == id and sample.mask is not None
        assert torch.equal(sample.image, source.read_image(id))
        assert torch.equal(sample.mask, source.read_mask(id))
    assert [len(dataset.split(name) or ()) for name in ("train", "val", "test")] == [12, 3, 3]


def test_image_without_mask_is_unlabeled(tmp_path: Path) -> None:
    dataset = FolderDataset(make(tmp_path / "d", {"0": plain(), "2": plain()}))
    assert [dataset.has_mask(id) for id in dataset.ids] == [True, False, True, False]
    assert dataset[1].mask is None and dataset.mask_path("1") is None


def test_mask_belongs_to_one_image(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"0_L": plain(), "1_L": plain(), "2": plain()})
    Image.fromarray(RAMP).save(root / "images" / "1_L.png")
    assert sorted(FolderDataset(root).masks) == ["0", "1_L", "2"]


def test_malformed_exif_tag_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = bytearray(exif.tobytes())
    Image.new("RGB", (20, 10)).save(tmp_path / "x.jpg", exif=exif)
    data = (tmp_path / "x.jpg").read_bytes()
    # A second entry: ResolutionUnit (0x0128), a SHORT, stored as a RATIONAL whose value lies beyond the end.
    odd = bytes.fromhex("0128 0005 00000001 00000026".replace(" ", ""))
    head = raw.index(b"MM\x00*") if b"MM\x00*" in raw else -1
    if head < 0:
        pytest.skip("this Pillow writes its EXIF in the other byte order")
    tiff = bytes(raw[head : head + 8]) + b"\x00\x02" + bytes(raw[head + 10 : head + 22]) + odd + bytes(4) + bytes(8)
    block = b"Exif\x00\x00" + tiff
    patched = data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[data.index(b"\xff\xdb") :]
    (tmp_path / "x.jpg").write_bytes(patched)
    assert read_image_file(tmp_path / "x.jpg").shape == (3, 20, 10)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "bmp", "tif", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_images_of_every_format_become_rgb(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"x.{suffix}"
    smooth = np.linspace(40, 200, 20 * 30).reshape(20, 30).astype(np.uint8)
    image = Image.fromarray(np.stack([smooth] * 3, 2)).convert(mode)
    try:
        image.save(path)
    except (OSError, KeyError):
        pytest.skip(f"{suffix} does not hold {mode}")
    read = read_image_file(path)
    assert read.shape == (3, 20, 30) and read.dtype == torch.uint8
    with Image.open(path) as opened:
        expected = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
    assert (read.int() - expected.int()).abs().max() <= 3


def test_sixteen_bit_image_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "x.png")
    read = read_image_file(tmp_path / "x.png").float()
    assert (read[0] - torch.from_numpy(values / 257.0)).abs().max() <= 1


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_exif_orientation_rotates_image(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate right
    upright = np.zeros((20, 30, 3), dtype=np.uint8)
    upright[:, :15] = 255
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / f"x.{suffix}", exif=exif)
    read = read_image_file(tmp_path / f"x.{suffix}")
    assert read.shape == (3, 20, 30)
    assert read[:, :, :13].min() > 240 and read[:, :, 17:].max() < 15


def test_palette_png_and_integers_and_colors_agree(tmp_path: Path) -> None:
    mask = np.arange(600).reshape(20, 30).astype(np.uint8) % 3
    mask[0] = 255
    palette = [[10, 20, 30], [0, 0, 0], [200, 0, 90]]
    colors = np.array(palette, dtype=np.uint8)[np.minimum(mask, 2)]
    colors[0] = (7, 7, 7)
    root = make(tmp_path / "d", {"0": mask, "2": colors}, classes=None)
    content = {"classes": ["a", "b", "c"], "palette": palette, "ignore": [7, 7, 7]}
    (root / "classes.json").write_text(json.dumps(content))
    indexed = Image.fromarray(mask)
    indexed.putpalette([9, 9, 9] * 256)
    indexed.save(root / "masks" / "1.png")
    dataset = FolderDataset(root)
    for id in ("0", "1", "2"):
        assert torch.equal(dataset.read_mask(id), torch.from_numpy(mask)), id
    assert dataset.palette == ((10, 20, 30), (0, 0, 0), (200, 0, 90))


def test_ignore_value_becomes_255(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"0": plain(3)}, classes=None)
    (root / "classes.json").write_text('{"classes": ["a", "b", "c"], "ignore": 3}')
    assert FolderDataset(root).read_mask("0").unique().tolist() == [255]


def test_classes_are_inferred_from_masks(tmp_path: Path) -> None:
    ignoring = plain(255)
    root = make(tmp_path / "d", {"0": plain(1), "1": plain(2), "2": ignoring}, classes=None)
    dataset = FolderDataset(root)
    assert dataset.classes == ("class0", "class1", "class2")
    assert len(set(dataset.palette)) == 3
    (root / "masks" / "1.png").write_bytes(b"broken")  # fails only when it is read
    assert FolderDataset(root).classes == ("class0", "class1")


def test_binary_masks_without_class_file_fail(tmp_path: Path) -> None:
    mask = plain(0)
    mask[5:] = 255
    root = make(tmp_path / "d", {"0": mask}, classes=None)
    with refused("only 0 and 255", '{"values": {"0": "background", "255": "foreground"}}', str(root / "masks")):
        FolderDataset(root)
    (root / "classes.txt").write_text("floor\nthing\n")
    assert FolderDataset(root).classes == ("floor", "thing")


def test_opening_folder_opens_no_image(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"0": plain()})
    for path in (*root.glob("images/*"), *root.glob("masks/*")):
        path.write_bytes(b"not an image")
    (root / "images" / ".hidden.png").write_bytes(b"")
    (root / "images" / "notes.txt").write_text("not listed")
    assert FolderDataset(root).ids == ("0", "1", "2", "3")


# Invalid input: one line that names the file.


def test_missing_folder_or_images_fail(tmp_path: Path) -> None:
    with refused(str(tmp_path / "none"), "no such folder"):
        open_dataset(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with refused(str(tmp_path / "empty"), "found no files"):
        open_dataset(tmp_path / "empty")
    (tmp_path / "empty" / "images").mkdir()
    with refused(str(tmp_path / "empty" / "images"), "no images"):
        open_dataset(tmp_path / "empty")


@pytest.mark.parametrize("classes", ["a\nb\n", None])
def test_folder_without_masks_fails(tmp_path: Path, classes: str | None) -> None:
    root = make(tmp_path / "d", {}, classes=classes)
    with refused(str(root / "masks"), "mask", "a few"):
        resolve_split(open_dataset(root), None, 0)


def test_files_that_are_not_images_are_named(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"0": plain()}, classes=None)
    for path in (root / "images").iterdir():
        path.rename(path.with_suffix(".dcm"))
    (root / "images" / "more").mkdir()
    (root / "images" / "more" / "a.npy").touch()
    with refused(
        str(root / "images"), "no images there, but", ".dcm files, 1 .npy file", "Convert them to PNG or TIFF"
    ):
        open_dataset(root)


def test_masks_without_images_fail(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"other": plain()})
    with refused("other.png", "stem"):
        FolderDataset(root)


def test_jpeg_masks_fail(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {})
    Image.fromarray(plain()).save(root / "masks" / "0.jpg")
    with refused("0.jpg", "PNG"):
        FolderDataset(root)


def test_mask_of_other_size_fails(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"0": plain(), "1": plain()[:10]})
    with refused(str(root / "masks" / "1.png"), "30x10", "30x20"):
        check_masks(FolderDataset(root), ["0", "1"])


def test_value_outside_classes_fails(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"0": plain(2), "1": plain(3)})
    with refused(str(root / "masks" / "1.png"), "value 3", "3 classes", "classes.txt"):
        check_masks(FolderDataset(root), ["0", "1"])


def test_sixteen_bit_mask_fails_if_values_exceed_8_bits(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"0": plain().astype(np.uint16), "1": np.full((20, 30), 700, dtype=np.uint16)})
    dataset = FolderDataset(root)
    assert dataset.read_mask("0").unique().tolist() == [1]
    with refused("1.png", "700", "8-bit"):
        dataset.read_mask("1")


def test_colors_outside_palette_fail(tmp_path: Path) -> None:
    colors = np.zeros((20, 30, 3), dtype=np.uint8)
    colors[4, 5] = (1, 2, 3)
    root = make(tmp_path / "d", {"0": colors})
    with refused("0.png", "colors", "classes.json"):
        FolderDataset(root).read_mask("0")
    (root / "classes.txt").unlink()
    (root / "classes.json").write_text('{"classes": ["a", "b"], "palette": [[0, 0, 0], [9, 9, 9]]}')
    with refused("0.png", "(1, 2, 3)", "classes.json"):
        FolderDataset(root).read_mask("0")


def test_ignore_color_requires_full_palette(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"0": plain()})
    (root / "classes.json").write_text('{"classes": ["a", "b"], "palette": [[0, 0, 0]], "ignore": [9, 9, 9]}')
    with refused("classes.json", "a color for each class"):
        FolderDataset(root)


@pytest.mark.parametrize("name", ["0.png", "0.jpg"])
@pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
def test_unreadable_image_fails(tmp_path: Path, name: str, content: bytes | str) -> None:
    root = make(tmp_path / "d", {"0": plain()})
    (root / "images" / "0.png").unlink()
    path = root / "images" / name
    if isinstance(content, str):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 300, 3), dtype=np.uint8)).save(path)
        content = path.read_bytes()[:5000]
    path.write_bytes(content)
    with refused(str(path), "cannot be read"):
        check_masks(FolderDataset(root), ["0"])


def test_unreadable_mask_fails(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"0": plain()})
    (root / "masks" / "0.png").write_bytes(b"\x89PNG")
    with refused(str(root / "masks" / "0.png"), "cannot be read"):
        check_masks(FolderDataset(root), ["0"])


def test_two_images_with_one_stem_fail(tmp_path: Path) -> None:
    root = make(tmp_path / "d", {"0": plain()})
    Image.fromarray(RAMP).save(root / "images" / "0.jpg")
    with refused("0.jpg", "0.png", "same stem"):
        FolderDataset(root)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"classes": []}',
        '{"classes": ["a", "a"]}',
        '{"palette": []}',
        '{"classes": ["a"], "palette": [[1, 2]]}',
    ],
)
def test_invalid_class_file_fails(tmp_path: Path, content: str) -> None:
    root = make(tmp_path / "d", {"0": plain()})
    (root / "classes.json").write_text(content)
    with refused(str(root / "classes.json")):
        FolderDataset(root)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"palette": [[n // 256, n % 256, 7] for n in range(300)]}, "300 colors, but a mask has at most 256 values"),
        ({"palette": [[0, 0, 0], [9, 9, 9.5]]}, "color [9, 9, 9.5] is not three integers"),
        ({"palette": [[0, 0, 0], [9, 9, "9"]]}, "not three integers"),
        ({"palette": [[0, 0, 0], [9, 9, True]]}, "not three integers"),
        ({"ignore": True}, "ignore is True, which is neither an integer nor a color"),
        ({"ignore": 1.9}, "ignore is 1.9"),
        ({"ignore": "1"}, "ignore is '1'"),
    ],
)
def test_ambiguous_class_file_fails(tmp_path: Path, changed: dict[str, object], words: str) -> None:
    root = make(tmp_path / "d", {"0": plain()}, classes=None)
    (root / "classes.json").write_text(json.dumps({"classes": ["a", "b"]} | changed))
    with refused(f"{root / 'classes.json'}: ", words):
        FolderDataset(root)


def test_duplicate_color_fails_only_for_color_masks(tmp_path: Path) -> None:
    colors = np.full((20, 30, 3), (9, 9, 9), dtype=np.uint8)
    root = make(tmp_path / "d", {"0": plain(), "1": colors}, classes=None)
    content = {"classes": ["a", "b", "c"], "palette": [[0, 0, 0], [9, 9, 9], [9, 9, 9]]}
    (root / "classes.json").write_text(json.dumps(content))
    assert FolderDataset(root).read_mask("0").unique().tolist() == [1]  # integers do not use the colors
    with refused(f"{root / 'classes.json'}: the color (9, 9, 9) is listed twice"):
        FolderDataset(root).read_mask("1")
    (root / "classes.json").write_text(
        json.dumps(content | {"palette": [[0, 0, 0], [9, 9, 9], [8, 8, 8]], "ignore": [9, 9, 9]})
    )
    assert FolderDataset(root).read_mask("1").unique().tolist() == [255]  # ignore wins over the class with that value


# CamVid.


def test_camvid_in_segnet_layout(tmp_path: Path) -> None:
    for index, name in enumerate(("train", "val", "test")):
        for folder, array in ((name, RAMP), (f"{name}annot", plain(11 if name == "val" else index))):
            (tmp_path / folder).mkdir()
            Image.fromarray(array).save(tmp_path / folder / f"0001TP_00669{index}.png")
    dataset = open_dataset(tmp_path)
    assert isinstance(dataset, CamVid) and dataset.classes == CLASSES
    assert dataset.split("val") == ("0001TP_006691",) and dataset.split("train") == ("0001TP_006690",)
    assert dataset.read_mask("0001TP_006691").unique().tolist() == [255]
    assert dataset.read_mask("0001TP_006692").unique().tolist() == [2]


def test_camvid_as_own_folder(tiny_folder: Path, camvid_dir: Path) -> None:
    dataset = CamVid(camvid_dir)
    assert len(dataset) == 701 and dataset.classes == CLASSES
    split = resolve_split(dataset, "1/16", 0)
    assert [len(ids) for ids in (split.labeled, split.unlabeled, split.val, split.test)] == [23, 344, 101, 233]
    assert check_masks(dataset, split.labeled)[0] > 0
    with refused(str(tiny_folder), "eleven"):
        CamVid(tiny_folder)


def test_write_folder_fails_if_folder_is_not_empty(tiny_folder: Path) -> None:
    with refused(str(tiny_folder), "not empty"):
        write_folder(FolderDataset(tiny_folder), tiny_folder)
