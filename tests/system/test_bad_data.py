"""Tests with damaged and unusual files: each is read correctly, or raises an error before the first step."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import semiseg
from semiseg import cli
from semiseg.config import TrainConfig
from semiseg.data import FolderDataset, open_dataset, resolve_split
from semiseg.errors import UserError
from semiseg.training.logging.metrics_log import read_metrics
from semiseg.training.prepare_run import open_validated_data
from semiseg.training.trainer import Trainer
from trees import refused, write_lines

Pixels = NDArray[np.uint8]
Write = Callable[[Path], object]
HEIGHT, WIDTH = 24, 36
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
PICTURE: Pixels = np.stack([ROWS * 10, COLUMNS * 7, 250 - ROWS * 5 - COLUMNS], axis=-1).astype(np.uint8)
GRAY: Pixels = (ROWS * 6 + COLUMNS * 3).astype(np.uint8)
MASK: Pixels = (ROWS // 8).astype(np.uint8)  # the classes 0, 1, 2
WIDE = GRAY.astype(np.int32) * 8_000_000  # up to 1.9e9
NORMED = np.stack([GRAY * (255 / GRAY.max())] * 3, axis=-1)
UNMEASURED = np.stack([np.where(MASK == 1, 0, 255)] * 3, axis=-1)
PALETTE: Pixels = np.array([[90, 10, 10], [10, 90, 10], [10, 10, 90]], dtype=np.uint8)
COLORS = PALETTE[MASK]
EXACT, NEAR = 0, 12


def picture(pixels: NDArray[Any], mode: str = "", **options: Any) -> Write:
    """Return a function that writes the pixels in a mode. The path or ``format`` selects the file format."""
    return lambda path: (Image.fromarray(pixels).convert(mode) if mode else Image.fromarray(pixels)).save(
        path, **options
    )


def indexed(**options: Any) -> Write:
    """Return a function that writes the mask as indices of the palette."""

    def write(path: Path) -> None:
        image = Image.fromarray(MASK)
        image.putpalette(PALETTE.flatten().tolist())
        image.save(path, **options)

    return write


def rotated(orientation: int) -> Write:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return picture(PICTURE, exif=exif)


def encoded(format: str, pixels: Pixels = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def containing(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def truncated(format: str, share: float) -> Write:
    content = encoded(format)
    return containing(content[: int(len(content) * share)])


def corrupted(format: str = "PNG") -> Write:
    content = encoded(format)
    begin = content.index(b"IDAT") + 4
    return containing(content[:begin] + bytes(9) + content[begin + 9 :])


def png(width: int, height: int, data: bytes) -> bytes:
    """Return a gray PNG with the given size in its header and the compressed pixels ``data``."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def huge_jpeg() -> bytes:
    """Return a JPEG whose header claims 30000 x 20000 pixels."""
    content = bytearray(encoded("JPEG"))
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 20000, 30000)
    return bytes(content)


def bomb() -> bytes:
    """Return a valid PNG of 180 million pixels in less than a megabyte."""
    deflate = zlib.compressobj(1)
    return png(18000, 10000, b"".join(deflate.compress(bytes(18001)) for _ in range(10000)) + deflate.flush())


def linked(target: str) -> Write:
    return lambda path: path.symlink_to(target)


def rgb(pixels: Pixels) -> Pixels:
    return np.stack([pixels] * 3, axis=-1)


# Name: file, function that writes it, and the expected pixels with a tolerance or words of the error.
Expected = tuple[NDArray[Any], int]
IMAGES: dict[str, tuple[str, Write, Expected | str]] = {
    "jpeg": ("x.jpg", picture(PICTURE, quality=95), (PICTURE, NEAR)),
    "jpeg without pixels": ("x.jpg", truncated("JPEG", 0.3), "cannot be read"),
    "jpeg cut in the middle": ("x.jpg", truncated("JPEG", 0.7), "cannot be read"),
    "jpeg cut at its head": ("x.jpg", containing(encoded("JPEG")[:9]), "cannot be read"),
    "jpeg without its end mark": ("x.jpg", containing(encoded("JPEG")[:-2]), "truncated"),
    "png cut at its head": ("x.png", containing(encoded("PNG")[:20]), "cannot be read"),
    "png cut in the middle": ("x.png", truncated("PNG", 0.6), "cannot be read"),
    "png without its end mark": ("x.png", containing(encoded("PNG")[:-12]), "cannot be read"),
    "png garbled": ("x.png", corrupted(), "cannot be read"),
    "tiff cut": ("x.tif", truncated("TIFF", 0.5), "cannot be read"),
    "webp cut": ("x.webp", truncated("WEBP", 0.5), "cannot be read"),
    "bmp cut": ("x.bmp", truncated("BMP", 0.5), "truncated"),
    "zero bytes": ("x.png", containing(b""), "cannot be read"),
    "text": ("x.png", containing(b"a letter, not a picture\n"), "cannot identify"),
    "html of an error page": ("x.jpg", containing(b"<html>404</html>"), "cannot identify"),
    "postscript": ("x.png", containing(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "cannot identify"),
    "a jpeg named png": ("x.png", containing(encoded("JPEG", quality=95)), (PICTURE, NEAR)),
    "a png named jpeg": ("x.jpg", containing(encoded("PNG")), (PICTURE, EXACT)),
    "a gif named png": ("x.png", containing(encoded("GIF", rgb(MASK * 100))), (rgb(MASK * 100), EXACT)),
    "upper-case suffix": ("x.PNG", picture(PICTURE, format="PNG"), (PICTURE, EXACT)),
    "gray": ("x.png", picture(GRAY), (rgb(GRAY), EXACT)),
    "gray and alpha": ("x.png", picture(np.dstack([GRAY, GRAY // 2])), (rgb(GRAY), EXACT)),
    "rgba": ("x.png", picture(np.dstack([PICTURE, GRAY])), (PICTURE, EXACT)),
    "palette": ("x.png", indexed(), (COLORS, EXACT)),
    "palette with transparency": ("x.png", indexed(transparency=b"\0\x80"), (COLORS, EXACT)),
    "one bit": ("x.png", picture((MASK % 2 * 255).astype(np.uint8), "1"), (rgb(MASK % 2 * 255), EXACT)),
    "sixteen bits, png": ("x.png", picture(GRAY.astype(np.uint16) * 257), (rgb(GRAY), EXACT)),
    "sixteen bits, tiff": ("x.tif", picture(GRAY.astype(np.uint16) * 257), (rgb(GRAY), EXACT)),
    "32 bits, small": ("x.tif", picture(GRAY.astype(np.int32) * 257), (rgb(GRAY), EXACT)),
    "32 bits, large": ("x.tif", picture(WIDE), (rgb(np.clip(WIDE / np.percentile(WIDE, 99.8), 0, 1) * 255), 1)),
    "32 bits, below zero": ("x.tif", picture(WIDE - 2**30), "values below 0, such as -1.07374e"),
    "float tiff below zero": ("x.tif", picture(GRAY / np.float32(-9)), "values below 0, such as"),
    "float tiff hardly below zero": ("x.tif", picture(GRAY / np.float32(GRAY.max()) - np.float32(1e-6)), (NORMED, 1)),
    "float tiff": ("x.tif", picture(GRAY.astype(np.float32) * 255 / GRAY.max()), (rgb(GRAY * (255 / GRAY.max())), 1)),
    "float tiff with NaN": ("x.tif", picture(np.where(MASK == 1, np.nan, 1).astype(np.float32)), (UNMEASURED, EXACT)),
    "float tiff with infinity": (
        "x.tif",
        picture(np.where(MASK == 1, np.inf, 1).astype(np.float32)),
        (UNMEASURED, EXACT),
    ),
    "cmyk jpeg": ("x.jpg", picture(PICTURE, "CMYK", quality=95), (PICTURE, NEAR)),
    "exif 2": ("x.png", rotated(2), (PICTURE[:, ::-1], EXACT)),
    "exif 3": ("x.png", rotated(3), (PICTURE[::-1, ::-1], EXACT)),
    "exif 4": ("x.png", rotated(4), (PICTURE[::-1], EXACT)),
    "exif 5": ("x.png", rotated(5), (PICTURE.transpose(1, 0, 2), EXACT)),
    "exif 6": ("x.png", rotated(6), (np.rot90(PICTURE, -1), EXACT)),
    "exif 7": ("x.png", rotated(7), (np.rot90(PICTURE, 2).transpose(1, 0, 2), EXACT)),
    "exif 8": ("x.png", rotated(8), (np.rot90(PICTURE), EXACT)),
    "exif 9": ("x.png", rotated(9), (PICTURE, EXACT)),
    "damaged exif, png": ("x.png", picture(PICTURE, exif=b"garbage"), (PICTURE, EXACT)),
    "damaged exif, webp": ("x.webp", picture(PICTURE, exif=b"garbage", lossless=True), (PICTURE, EXACT)),
    "damaged exif, jpeg": (
        "x.jpg",
        picture(PICTURE, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff", quality=95),
        (PICTURE, 12),
    ),
    "animated png": (
        "x.png",
        picture(PICTURE, save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]),
        (PICTURE, 0),
    ),
    "animated webp": (
        "x.webp",
        picture(PICTURE, save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))], lossless=True),
        (PICTURE, 0),
    ),
    "tiff of two pages": (
        "x.tif",
        picture(PICTURE, save_all=True, append_images=[Image.new("RGB", (9, 9))]),
        (PICTURE, 0),
    ),
    "one pixel": ("x.png", picture(PICTURE[:1, :1]), (PICTURE[:1, :1], EXACT)),
    "one row": ("x.png", picture(PICTURE[:1]), (PICTURE[:1], EXACT)),
    "one column": ("x.png", picture(PICTURE[:, :1]), (PICTURE[:, :1], EXACT)),
    "no width": ("x.png", containing(png(0, 9, b"")), "cannot be read"),
    "png header of 30000 x 20000": (
        "x.png",
        containing(png(30000, 20000, zlib.compress(bytes(99)))),
        "600000000 pixels",
    ),
    "huge jpeg": ("x.jpg", containing(huge_jpeg()), "600000000 pixels"),
    "png bomb": ("x.png", lambda path: path.write_bytes(bomb()), "180000000 pixels"),
    "space": ("my photo (1).png", picture(PICTURE), (PICTURE, EXACT)),
    "a suffix and a space": ("x.png copy.png", picture(PICTURE), (PICTURE, EXACT)),
    "tab": ("a\tb.png", picture(PICTURE), (PICTURE, EXACT)),
    "emoji": ("\U0001f469‍\U0001f4bb.png", picture(PICTURE), (PICTURE, EXACT)),
    "leading dash": ("--help.png", picture(PICTURE), (PICTURE, EXACT)),
    "quotes": ("a'b\"c.png", picture(PICTURE), (PICTURE, EXACT)),
    "backslash": ("a\\b.png", picture(PICTURE), (PICTURE, EXACT)),
    "a very long name": (f"{'n' * 251}.png", picture(PICTURE), (PICTURE, EXACT)),
    "line end in the name": ("a\nb.png", picture(PICTURE), "the name cannot be listed"),
    "space before the name": (" a.png", picture(PICTURE), "the name cannot be listed"),
    "space behind the name": ("a .png", picture(PICTURE), "the name cannot be listed"),
    "a name that is not UTF-8": (os.fsdecode(b"a\xff.png"), picture(PICTURE), "the name cannot be listed"),
    "broken link": ("x.png", linked("nowhere.png"), "No such file"),
    "line of 65,536 pixels": (
        "x.png",
        picture(np.zeros((1, 65536), dtype=np.uint8)),
        "less than 32 by more than 65535",
    ),
    "line of 65,535 pixels": ("x.png", picture(np.zeros((1, 65535), dtype=np.uint8)), (np.zeros((1, 65535, 3)), EXACT)),
    "link to itself": ("x.png", linked("x.png"), "cannot be read"),
    "folder": ("x.png", lambda path: path.mkdir(), "not a regular file"),
    "pipe": ("x.png", os.mkfifo, "not a regular file"),
    "link to a device": ("x.png", linked("/dev/zero"), "not a regular file"),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a folder with three classes and four valid images, one of them for validation."""
    root = tmp_path / "data"
    for folder, pixels in (("images", PICTURE), ("masks", MASK)):
        (root / folder).mkdir(parents=True)
        for index in range(4):
            Image.fromarray(pixels).save(root / folder / f"good{index}.png")
    write_lines(root / "classes.txt", "sky", "rose", "soil")
    write_lines(root / "splits" / "val.txt", "good3")
    return root


def open_for_training(root: Path) -> FolderDataset:
    """Validate a folder like training does before its first step."""
    dataset = open_validated_data(TrainConfig(data=str(root), method="supervised"))[0]
    assert isinstance(dataset, FolderDataset)
    return dataset


def put_image(root: Path, name: str) -> Path:
    write, expected = IMAGES[name][1:]
    path = root / "images" / IMAGES[name][0]
    write(path)
    shape = expected[0].shape[:2] if isinstance(expected, tuple) else MASK.shape
    Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(root / "masks" / f"{path.stem}.png")
    return path


@pytest.mark.parametrize("name", IMAGES)
def test_labeled_image_is_read_or_raises_an_error_before_the_first_step(data: Path, name: str) -> None:
    path, expected = put_image(data, name), IMAGES[name][2]
    checked = semiseg.check(data)
    if isinstance(expected, str):
        with pytest.raises(UserError) as caught:
            open_for_training(data)
        assert str(path) in str(caught.value) and expected in str(caught.value)
        assert not checked.usable
        return
    dataset, (pixels, near) = open_for_training(data), expected
    read = dataset.read_image(path.stem).permute(1, 2, 0).numpy()
    assert read.shape == (*pixels.shape[:2], 3) and read.dtype == np.uint8
    assert np.abs(read.astype(int) - pixels.astype(int)).max() <= near
    assert checked.usable, checked.with_severity("problem")


OTHER = Image.new("L", (WIDTH, HEIGHT), 2)
# Name: file, function that writes it, and the expected mask or words of the error.
MASKS: dict[str, tuple[str, Write, Pixels | str]] = {
    "palette": ("x.png", indexed(), MASK),
    "three equal channels": ("x.png", picture(rgb(MASK)), MASK),
    "four channels, three equal": ("x.png", picture(np.dstack([rgb(MASK), np.full_like(MASK, 255)])), MASK),
    "gray and alpha": ("x.png", picture(np.dstack([MASK, np.full_like(MASK, 255)])), MASK),
    "partly transparent": ("x.png", picture(np.dstack([MASK, GRAY])), "pixels of the mask are partly transparent"),
    "one bit": ("x.png", picture((MASK % 2 * 255).astype(np.uint8), "1"), (MASK % 2).astype(np.uint8)),
    "sixteen bits, png": ("x.png", picture(MASK.astype(np.uint16)), MASK),
    "sixteen bits, tiff": ("x.tif", picture(MASK.astype(np.uint16)), MASK),
    "float tiff of whole numbers": ("x.tif", picture(MASK.astype(np.float32)), MASK),
    "animated png": ("x.png", picture(MASK, save_all=True, append_images=[OTHER]), "the mask has 2 pages"),
    "animated webp": (
        "x.webp",
        picture(rgb(MASK), save_all=True, append_images=[OTHER], lossless=True),
        "the mask has 2 pages",
    ),
    "tiff of two pages": ("x.tif", picture(MASK, save_all=True, append_images=[OTHER]), "the mask has 2 pages"),
    "upper-case suffix": ("x.PNG", picture(MASK, format="PNG"), MASK),
    "all 255": ("x.png", picture(np.full_like(MASK, 255)), np.full_like(MASK, 255)),
    "colors without a palette": ("x.png", picture(COLORS), "the mask holds colors, such as (90, 10, 10)"),
    "sixteen bits beyond eight": ("x.png", picture(MASK.astype(np.uint16) * 500), "value 500 is not an integer"),
    "float tiff of fractions": ("x.tif", picture(MASK.astype(np.float32) / 2), "value 0.5 is not an integer"),
    "float tiff with NaN": ("x.tif", picture(np.where(MASK == 1, np.nan, 1).astype(np.float32)), "value nan is not"),
    "a value above the classes": ("x.png", picture(MASK + 1), "value 3 is not one of the 3 classes"),
    "off by one row": ("x.png", picture(MASK[1:]), "the mask is 36x23, its image"),
    "off by one column": ("x.png", picture(MASK[:, 1:]), "the mask is 35x24, its image"),
    "transposed": ("x.png", picture(np.ascontiguousarray(MASK.T)), "the mask is 24x36, its image"),
    "one pixel": ("x.png", picture(MASK[:1, :1]), "the mask is 1x1, its image"),
    "jpeg": ("x.jpg", picture(MASK), "a JPEG mask is blurred"),
    "a jpeg named png": ("x.png", containing(encoded("JPEG", MASK)), "a JPEG mask is blurred"),
    "webp": ("x.webp", picture(rgb(MASK)), "a lossy WebP mask is blurred"),
    "webp with exif": ("x.webp", picture(rgb(MASK), exif=b"garbage"), "a lossy WebP mask is blurred"),
    "webp with alpha, named png": (
        "x.png",
        containing(encoded("WEBP", np.dstack([rgb(MASK), GRAY]))),
        "a lossy WebP mask",
    ),
    "webp of several": ("x.webp", picture(rgb(MASK), save_all=True, append_images=[OTHER]), "a lossy WebP mask is"),
    "lossless webp": ("x.webp", picture(rgb(MASK), lossless=True), MASK),
    "lossless webp with exif": ("x.webp", picture(rgb(MASK), lossless=True, exif=b"garbage"), MASK),
    "tiff, lzw": ("x.tif", picture(MASK, compression="tiff_lzw"), MASK),
    "tiff, jpeg inside": ("x.tif", picture(MASK, compression="jpeg"), "a TIFF (jpeg inside) mask is blurred"),
    "zero bytes": ("x.png", containing(b""), "the mask cannot be read"),
    "text": ("x.png", containing(b"0 0 1 1"), "the mask cannot be read"),
    "cut": ("x.png", containing(encoded("PNG", MASK)[:60]), "the mask cannot be read"),
    "huge png": ("x.png", containing(png(30000, 20000, zlib.compress(bytes(99)))), "600000000 pixels"),
    "broken link": ("x.png", linked("nowhere.png"), "the mask cannot be read (No such file"),
    "folder": ("x.png", lambda path: path.mkdir(), "not a regular file"),
    "pipe": ("x.png", os.mkfifo, "not a regular file"),
}


@pytest.mark.parametrize("name", MASKS)
def test_mask_is_read_or_raises_an_error_before_the_first_step(data: Path, name: str) -> None:
    file, write, expected = MASKS[name]
    Image.fromarray(PICTURE).save(data / "images" / "x.png")
    write(data / "masks" / file)
    checked = semiseg.check(data)
    if isinstance(expected, str):
        with refused(str(data / "masks" / file), expected):
            open_for_training(data)
        assert not checked.usable
        return
    assert np.array_equal(open_for_training(data).read_mask("x").numpy(), expected)
    assert checked.usable, checked.with_severity("problem")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("folder", ["images", "masks"])
def test_unreadable_permissions_name_the_file(data: Path, folder: str) -> None:
    path = data / folder / "good0.png"
    path.chmod(0)
    with refused(str(path), "Permission denied"):
        open_for_training(data)


def two_of_one_stem(data: Path) -> None:
    Image.fromarray(PICTURE).save(data / "images" / "good0.jpg")


def two_masks_of_one_stem(data: Path) -> None:
    Image.fromarray(MASK).save(data / "masks" / "good0.bmp")


def names_that_differ_by_case(data: Path) -> None:
    for folder, pixels in (("images", PICTURE[::-1]), ("masks", MASK[::-1])):
        Image.fromarray(pixels.copy()).save(data / folder / "GOOD0.png")


def files_of_other_programs(data: Path) -> None:
    for folder in ("images", "masks"):
        for name in (".DS_Store", "._good0.png", "Thumbs.db", ".good0.png.tmp", "desktop.ini", "notes.txt", "x.svg"):
            (data / folder / name).write_bytes(b"\0\1\2")
    (data / "__MACOSX" / "images").mkdir(parents=True)
    (data / "__MACOSX" / "images" / "._good0.png").write_bytes(b"\0\5\26\7")


def no_images(data: Path) -> None:
    for path in (data / "images").iterdir():
        path.unlink()


def no_masks(data: Path) -> None:
    for path in (data / "masks").iterdir():
        path.unlink()


def listing(content: bytes) -> Callable[[Path], object]:
    return lambda data: (data / "splits" / "val.txt").write_bytes(content)


def pipe_for_names(data: Path) -> None:
    (data / "classes.txt").unlink()
    os.mkfifo(data / "classes.txt")


def pipe_for_tags(data: Path) -> None:
    os.mkfifo(data / "tags.csv")


def pipes_beside(data: Path) -> None:
    (data / "annotations").mkdir()
    for name in ("x.json", "x.csv", "annotations/x.json"):
        os.mkfifo(data / name)


# Name: change to the folder, and None if it stays valid, else words of the error.
FOLDERS: dict[str, tuple[Callable[[Path], object], str | None]] = {
    "two images of one stem": (two_of_one_stem, "same stem"),
    "two masks of one stem": (two_masks_of_one_stem, "same stem"),
    "names that differ by case": (names_that_differ_by_case, None),
    "files of other programs": (files_of_other_programs, None),
    "no images": (no_images, "images: no images there"),
    "no masks": (no_masks, "none of 3 training images has a mask"),
    "empty list": (listing(b""), "the val list is empty"),
    "list of blank lines": (listing(b"\r\n \r\n"), "the val list is empty"),
    "list with CRLF": (listing(b"good3\r\ngood2\r\n"), None),
    "list with a byte order mark and no last line end": (listing(b"\xef\xbb\xbfgood3"), None),
    "list with blank lines and suffixes": (listing(b"\n\nimages/good3.png\n\n"), None),
    "list that names one twice": (listing(b"good3\ngood3\n"), "'good3' is listed twice"),
    "list in UTF-16": (listing("good3\n".encode("utf-16")), "val.txt: cannot be read (UnicodeDecodeError)"),
    "list of an image that is not there": (listing(b"good9\n"), "'good9' is not an image of data"),
    "pipe for class names": (pipe_for_names, "classes.txt: cannot be read"),
    "pipe for tags": (pipe_for_tags, "tags.csv: cannot be read"),
    "pipes where exports may lie": (pipes_beside, None),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folder_is_read_or_raises_an_error(data: Path, name: str) -> None:
    change, expected = FOLDERS[name]
    change(data)
    checked = semiseg.check(data)
    assert checked.usable == (expected is None), checked.with_severity("problem")
    if expected is None:
        dataset = open_for_training(data)
        assert {"good0", "good1", "good2", "good3"} <= set(dataset.ids)
        assert np.array_equal(dataset.read_image("good0").permute(1, 2, 0).numpy(), PICTURE)
        return
    with refused(expected):
        open_for_training(data)


# Training and prediction.

OPTIONS: dict[str, Any] = {
    **{"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0},
    **{"accelerator": "cpu", "steps": 6, "val_every": 3, "labeled": "4"},
}


def call(monkeypatch: pytest.MonkeyPatch, *argv: object) -> int:
    monkeypatch.setattr("sys.argv", ["semiseg", *map(str, argv)])
    return cli.main()


def lines_of(run: Path) -> list[dict[str, Any]]:
    times = ("time_s", "images_per_s", "data_wait_fraction")
    return [{k: v for k, v in line.items() if k not in times} for line in read_metrics(run / "metrics.jsonl")]


@pytest.mark.parametrize("role", ["labeled", "val", "test"])
def test_train_command_fails_before_the_first_step(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], role: str
) -> None:
    write_lines(data / "splits" / "test.txt", "good2")
    path = data / "images" / {"labeled": "good0.png", "val": "good3.png", "test": "good2.png"}[role]
    path.write_bytes(encoded("PNG")[:60])
    options = [f"--{key.replace('_', '-')}={value}" for key, value in (OPTIONS | {"labeled": "2"}).items()]
    steps: list[object] = []
    monkeypatch.setattr(Trainer, "step", lambda *arguments: steps.append(arguments))
    argv = ("train", "--method=supervised", "--data", data, "--out", tmp_path / "run", *options)
    assert call(monkeypatch, *argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"semiseg: {path}: the image cannot be read")
    assert not steps and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_unreadable_unlabeled_images_are_skipped_and_resume_is_exact(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = resolve_split(open_dataset(tiny_folder), "4", 0).unlabeled
    bad = [tiny_folder / "images" / f"{id}.png" for id in ids[:3]]
    bad[0].write_bytes(b"no picture")
    bad[1].unlink()
    os.mkfifo(bad[1])
    bad[2].unlink()
    bad[2].symlink_to("nowhere.png")
    whole = semiseg.train(tiny_folder, "mean-teacher", tmp_path / "whole", **OPTIONS)
    skipped = [line for line in lines_of(whole) if "skipped" in line]
    assert sorted(line["skipped"] for line in skipped) == sorted(path.stem for path in bad)
    log = (whole / "log.txt").read_text()
    assert all(log.count(f"warning: {path}: the image cannot be read") == 1 for path in bad)
    page = (whole / "report.html").read_text()
    assert "3 of 8 unlabeled images could not be read" in page and all(path.stem in page for path in bad)

    monkeypatch.setattr("semiseg.workflows.train.report", lambda runs: None)
    step = Trainer.step
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", lambda self, batch, at: step(self, batch, at) if at.step < 4 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            semiseg.train(tiny_folder, "mean-teacher", tmp_path / "resumed", **OPTIONS)
    resumed = semiseg.train(resume=tmp_path / "resumed")
    assert lines_of(resumed) == lines_of(whole)
    best = "checkpoints/best.pt"
    assert (resumed / best).read_bytes() == (whole / best).read_bytes()

    capsys.readouterr()
    strict = [f"--{key.replace('_', '-')}={value}" for key, value in OPTIONS.items()]
    assert call(monkeypatch, "train", "--data", tiny_folder, "--strict", "--out", tmp_path / "strict", *strict) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("semiseg: ") and "the image cannot be read" in last


@pytest.mark.slow
@pytest.mark.parametrize("labeled", [False, True])
def test_files_that_are_removed_or_damaged_during_training(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    labeled: bool,
) -> None:
    split = resolve_split(open_dataset(tiny_folder), "4", 0)
    paths = [tiny_folder / "images" / f"{id}.png" for id in (split.labeled if labeled else split.unlabeled)]
    step = Trainer.step

    def damaging(self: Trainer, batch: Any, progress: Any) -> Any:
        if progress.step == 1:
            paths[0].unlink()
            paths[1].write_bytes(paths[1].read_bytes()[:200])
        return step(self, batch, progress)

    monkeypatch.setattr(Trainer, "step", damaging)
    options = [f"--{key.replace('_', '-')}={value}" for key, value in OPTIONS.items()]
    options += ["--steps=8", "--val-every=8"]  # two passes
    status = call(monkeypatch, "train", "--data", tiny_folder, "--out", tmp_path / "run", *options)
    errors = capsys.readouterr().err
    if labeled:
        assert status == 2 and any(f"semiseg: {path}: the image cannot be read" in errors for path in paths[:2])
    else:
        skipped = {line["skipped"] for line in lines_of(tmp_path / "run") if "skipped" in line}
        assert status == 0 and skipped == {path.stem for path in paths[:2]}


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_predict_skips_unreadable_images_and_continues_after_their_repair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = "shapes:images=10,val=3,test=2,size=48"
    run = semiseg.train(data, "supervised", tmp_path / "run", **OPTIONS | {"steps": 1})
    photos, out = tmp_path / "photos", tmp_path / "masks"
    photos.mkdir()
    # predict reads images of up to 2^30 pixels and searches folders; without a white value it refuses NaN.
    left_out = ("long", "30000", "huge", "bomb", "NaN", "infinity", "folder")
    names = [name for name in IMAGES if not any(word in name for word in left_out)]
    cases = {f"{index}-{IMAGES[name][0]}": IMAGES[name] for index, name in enumerate(names)}
    for file, (_, write, _) in cases.items():
        write(photos / file)
    # predict needs no lists, so that names which cannot be listed are valid.
    bad = [f for f, (_, _, wish) in cases.items() if isinstance(wish, str) and "cannot be listed" not in wish]
    capsys.readouterr()
    assert call(monkeypatch, "predict", run, photos, "--out", out, "--accelerator", "cpu") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith(("note: ", "warning: "))]
    assert len(lines) == len(bad) + 1 and f"{len(bad)} of {len(cases)} images cannot be read" in lines[-1]
    assert all(any(f"/{file}: the image cannot be read" in line for line in lines[:-1]) for file in bad)
    masks = {path.name: path.read_bytes() for path in out.iterdir()}
    assert masks.keys() == {f"{os.path.splitext(file)[0]}.png" for file in cases.keys() - bad}
    for file in bad:
        (photos / file).rmdir() if (photos / file).is_dir() else (photos / file).unlink()
        Image.fromarray(PICTURE).save(photos / file)
    assert call(monkeypatch, "predict", run, photos, "--out", out, "--accelerator", "cpu") == 2
    assert "add --skip-existing" in capsys.readouterr().err
    again = ("predict", run, photos, "--out", out, "--accelerator", "cpu", "--skip-existing")
    assert call(monkeypatch, *again) == 0 and f"{len(bad)} masks in" in capsys.readouterr().out
    assert len(list(out.iterdir())) == len(cases)
    assert all((out / name).read_bytes() == content for name, content in masks.items())
