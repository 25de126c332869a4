"""Mask files: values as stored, pages, planes, opacity, orientation, and formats that PIL alone misreads."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from semiseg.data.files.mask_files import decode_mask, load_mask, read_mask_file
from trees import refused

MASK = np.random.default_rng(0).integers(0, 3, (20, 30), dtype=np.uint8)
BITS = MASK > 0


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def write_gray_png(path: Path, values: np.ndarray, depth: int) -> None:
    """Write a gray PNG of 1, 2 or 4 bits, which PIL cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b""
    for row in values:
        bits = "".join(format(value, f"0{depth}b") for value in row.tolist())
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_gray_png_of_few_bits_keeps_stored_values(tmp_path: Path, depth: int) -> None:
    values = MASK.clip(0, 2**depth - 1)
    write_gray_png(tmp_path / "a.png", values, depth)
    assert (read_mask_file(tmp_path / "a.png") == values).all()


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_tiff_polarity_does_not_invert_values(
    tmp_path: Path, kind: str, photometric: str, compression: str | None
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", MASK.astype(kind), photometric=photometric, compression=compression)
    assert (read_mask_file(tmp_path / "a.tif") == MASK).all()


def test_black_and_white_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, BITS)  # 0 is white
    assert (read_mask_file(path) == BITS).all()
    for photometric in (0, 1):
        Image.fromarray(BITS).save(path, compression="group4", tiffinfo={262: photometric})
        assert (read_mask_file(path) == BITS).all()
    Image.fromarray(BITS).save(path, compression="tiff_lzw", tiffinfo={262: 0})
    with refused("a.tif", "0 is white", "unclear", "Save masks as PNG"):
        read_mask_file(path)


@pytest.mark.parametrize("kind", ["int8", "int16", "uint32", "int64", "uint64", "float16", "float64"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_tiff_of_wide_types(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, MASK.astype(kind), extratags=[(274, 3, 1, orientation, True)])
    expected = MASK if orientation == 1 else np.rot90(MASK, -1)
    assert np.array_equal(read_mask_file(path), expected)
    assert np.array_equal(decode_mask(io.BytesIO(path.read_bytes()), "a"), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["png", "indexed", "tif", "zlib"])
def test_mask_is_turned_like_an_image(tmp_path: Path, form: str, orientation: int) -> None:
    path = tmp_path / ("a.tif" if form in ("tif", "zlib") else "a.png")
    if path.suffix == ".tif":
        compression = "zlib" if form == "zlib" else None
        tifffile.imwrite(path, MASK, compression=compression, extratags=[(274, 3, 1, orientation, True)])
    else:
        image = Image.fromarray(MASK)
        if form == "indexed":
            image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
        image.save(path, exif=exif(orientation))
    reference = Image.fromarray(MASK)
    reference.getexif()[0x0112] = orientation
    mask = load_mask(path, "a")
    assert np.array_equal(mask.values, np.array(ImageOps.exif_transpose(reference)))
    assert mask.orientation == orientation


@pytest.mark.parametrize("suffix", ["tif", "png", "webp", "gif"])
def test_several_pages_fail(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    pages = [Image.fromarray(value == MASK).convert("RGB") for value in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:], **({"lossless": True} if suffix == "webp" else {}))
    with refused(f"a.{suffix}", "the mask has 3 pages", "--form one-hot", "if each page is one class, or save one"):
        read_mask_file(path)


def test_preview_in_tiff_is_not_a_page(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(MASK)
        writer.write(MASK[::2, ::2], subfiletype=1)
    assert (read_mask_file(tmp_path / "a.tif") == MASK).all()


@pytest.mark.parametrize(
    ("samples", "form"),
    [
        (5, {"photometric": "minisblack", "planarconfig": "contig"}),
        (5, {"photometric": "rgb", "planarconfig": "contig"}),
        (2, {"photometric": "minisblack", "planarconfig": "contig"}),
        (3, {"photometric": "minisblack", "planarconfig": "separate"}),
        (3, {"photometric": "rgb", "planarconfig": "separate"}),
        (7, {"photometric": "minisblack", "planarconfig": "separate"}),
    ],
)
def test_one_plane_per_class_fails(tmp_path: Path, samples: int, form: dict[str, str]) -> None:
    axis = 0 if form["planarconfig"] == "separate" else -1
    tifffile.imwrite(tmp_path / "a.tif", np.stack([MASK] * samples, axis), **form)
    with refused("a.tif", f"the mask has {samples} values per pixel", "--form one-hot"):
        read_mask_file(tmp_path / "a.tif")


@pytest.mark.parametrize("channels", [1, 3])
def test_opacity_of_masks(tmp_path: Path, channels: int) -> None:
    def read(opacity: np.ndarray) -> np.ndarray:
        values = np.repeat(MASK[..., None], channels, axis=2)
        Image.fromarray(np.dstack([values, opacity.astype(np.uint8)])).save(tmp_path / "a.png")
        found = read_mask_file(tmp_path / "a.png")
        return found if channels == 1 else found[..., 0]

    full = np.full_like(MASK, 255)
    assert (read(full) == MASK).all()
    assert (read(np.where(MASK == 1, 0, full)) == MASK).all()  # all transparent pixels have one value
    with refused("a.png", "transparent pixels of the mask hide different values"):
        read(np.where(MASK < 2, 0, full))
    full[3, 4:6] = 100
    with refused("a.png", "2 pixels of the mask are partly transparent", "without antialiasing"):
        read(full)


def test_colors_of_16_bits_fail(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.stack([MASK.astype(np.uint16)] * 3, -1), photometric="rgb")
    with refused("a.tif", "colors of 16 bits", "8-bit"):
        read_mask_file(tmp_path / "a.tif")


def test_displayed_colors_of_indices(tmp_path: Path) -> None:
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 99, 0]], dtype=np.uint8)
    image = Image.fromarray(MASK)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png", bits=2)
    assert (read_mask_file(tmp_path / "a.png") == MASK).all()
    assert (read_mask_file(tmp_path / "a.png", colors=True) == palette[MASK]).all()
