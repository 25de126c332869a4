"""Images of more than 8 bits or other than three bands: which bands are read and which value is white."""

from __future__ import annotations

import json
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

import semiseg
from semiseg.data.files.image_files import decode, image_size, read_image_file
from semiseg.data.files.pixel_format import PixelFormat
from semiseg.data.files.stored_values import stored_values
from semiseg.data.folder_dataset import FolderDataset
from semiseg.errors import UserError

SEED = np.random.default_rng(3)
GRAY = SEED.integers(200, 1731, (40, 64)).astype(np.uint16)
COLOR = SEED.integers(300, 2850, (40, 64, 3)).astype(np.uint16)
FIVE = SEED.integers(0, 256, (40, 64, 5)).astype(np.uint8)


def scaled(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    """Return the values that are expected after scaling."""
    return np.rint(np.clip(values.astype(np.float64), 0, white) * 255 / white).astype(np.uint8)


def read(path: Path, format: PixelFormat = PixelFormat()) -> NDArray[np.uint8]:  # noqa: B008
    return read_image_file(path, format).permute(1, 2, 0).numpy()


def write_deep_png(path: Path, values: NDArray[np.uint16]) -> None:
    """Write a PNG of 16 bits and one to four bands, which Pillow cannot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, bands = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[bands], 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


def write_image(path: Path, values: NDArray[Any], **options: Any) -> Path:
    """Write values ``(H, W)`` or ``(H, W, bands)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png" and values.dtype == np.uint16 and values.ndim == 3:
        write_deep_png(path, values)
    elif path.suffix == ".tif":
        photometric = "rgb" if values.ndim == 3 and values.shape[2] in (3, 4) else "minisblack"
        planar = {"planarconfig": "contig"} if values.ndim == 3 else {}
        tifffile.imwrite(path, values, **({"photometric": photometric} | planar | options))
    else:
        Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_all_bits(tmp_path: Path, bands: int) -> None:
    values = np.random.default_rng(bands).integers(0, 65536, (7, 9, bands), dtype=np.uint16)
    write_deep_png(tmp_path / "a.png", values)
    assert np.array_equal(stored_values(tmp_path / "a.png").values, values)
    assert np.array_equal(stored_values(BytesIO((tmp_path / "a.png").read_bytes())).values, values)


def make_folder(root: Path, images: dict[str, NDArray[Any]], **class_file: Any) -> Path:
    """Write an own folder with a mask of two classes for every image."""
    root.mkdir(exist_ok=True)
    for name, values in images.items():
        path = write_image(root / "images" / name, values)
        (root / "masks").mkdir(exist_ok=True)
        mask = np.zeros(values.shape[:2], dtype=np.uint8)
        mask[:20] = 1
        Image.fromarray(mask).save(root / "masks" / f"{path.stem}.png")
    (root / "classes.json").write_text(json.dumps({"classes": ["ground", "plant"]} | class_file))
    return root


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("values", [GRAY, COLOR], ids=["gray", "color"])
def test_sixteen_bits_are_scaled_without_losing_the_low_byte(
    tmp_path: Path, suffix: str, values: NDArray[np.uint16]
) -> None:
    path = write_image(tmp_path / f"a{suffix}", values)
    expected = scaled(values, 1712) if values.ndim == 3 else np.repeat(scaled(values, 1712)[..., None], 3, axis=2)
    assert np.array_equal(read(path, PixelFormat(white=1712)), expected)
    with path.open("rb") as file:  # as for uploads and shards
        assert np.array_equal(decode(file, "a", format=PixelFormat(white=1712)).pixels.permute(1, 2, 0), expected)
    reduced = decode(path, "a", 2, PixelFormat(white=1712))
    assert reduced.pixels.shape == (3, 20, 32) and reduced.size == (40, 64)


def test_eight_bits_are_never_scaled(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", FIVE[..., :3])
    assert np.array_equal(read(path, PixelFormat(white=100)), FIVE[..., :3])
    dataset = FolderDataset(make_folder(tmp_path / "data", {"a.png": FIVE[..., :3], "b.png": FIVE[..., 1:4]}))
    assert dataset.pixel_format == PixelFormat() and not dataset.pixel_notes


@pytest.mark.parametrize("layout", ["contig", "separate"])
def test_bands_are_selected_by_number(tmp_path: Path, layout: str) -> None:
    values = FIVE if layout == "contig" else np.moveaxis(FIVE, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig=layout)
    assert image_size(tmp_path / "a.tif") == (64, 40)
    assert np.array_equal(read(tmp_path / "a.tif", PixelFormat((4, 3, 2))), FIVE[..., [3, 2, 1]])
    assert np.array_equal(read(tmp_path / "a.tif", PixelFormat((1, 2, 3, 4, 5))), FIVE)
    with pytest.raises(UserError, match="it has 5 bands, and band 6 is to be read"):
        read(tmp_path / "a.tif", PixelFormat((6,)))


def test_orientation_of_deep_images_is_applied_once(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", COLOR, photometric="rgb", extratags=[(274, 3, 1, 6, True)])
    assert np.array_equal(read(tmp_path / "a.tif", PixelFormat(white=3000)), scaled(np.rot90(COLOR, -1), 3000))
    assert image_size(tmp_path / "a.tif") == (40, 64)


def test_missing_values_are_black_and_do_not_count(tmp_path: Path) -> None:
    values = GRAY.astype(np.float32) / 2000
    values[:5], values[5:8], values[8:9] = -9999, np.nan, np.float32(-3.4e38)
    dataset = FolderDataset(make_folder(tmp_path / "data", {"a.tif": values, "b.tif": values}))
    assert "32-bit float, values 0.101 to 0.8645; white is 1 (the end of the range)" in notes(dataset)[0]
    image = dataset.read_image("a")[0].numpy()
    assert (image[:9] == 0).all() and np.array_equal(image[9:], scaled(values[9:], 1))
    tagged = write_image(
        tmp_path / "tag.tif", np.where(GRAY > 1700, 65535, GRAY), extratags=[(42113, "s", 0, "65535", True)]
    )
    image = read(tagged, PixelFormat(white=1712))[..., 0]
    assert (image[GRAY > 1700] == 0).all() and np.array_equal(image[GRAY <= 1700], scaled(GRAY, 1712)[GRAY <= 1700])


def notes(dataset: FolderDataset) -> list[str]:
    assert dataset.pixel_format  # chosen on first use
    return list(dataset.pixel_notes)


def test_white_is_chosen_once_for_the_data_set(tmp_path: Path) -> None:
    bright = GRAY.copy()
    bright[0, 0] = 5000
    dataset = FolderDataset(make_folder(tmp_path / "data", {"a.tif": GRAY, "b.png": bright, "c.tif": GRAY // 2}))
    (note,) = notes(dataset)
    white = dataset.pixel_format.white
    assert white is not None and 1700 <= white <= 1730
    assert note == (
        f'images: 16-bit, values 100 to 5000; white is {white:g} (p99.8). Set "white" in classes.json to change it'
    )
    for id, values in (("a", GRAY), ("b", bright), ("c", GRAY // 2)):
        assert np.array_equal(dataset.read_image(id)[0].numpy(), scaled(values, white)), id


def test_white_of_the_class_file_is_used(tmp_path: Path) -> None:
    assert FolderDataset(make_folder(tmp_path / "a", {"a.tif": GRAY}, white=3000)).pixel_format.white == 3000
    half = FolderDataset(make_folder(tmp_path / "b", {"a.tif": GRAY}, white="p50")).pixel_format.white
    assert half == pytest.approx(np.median(GRAY), abs=1)
    for white in ("much", -3, True, "p20", [1]):
        with pytest.raises(UserError, match=r'classes.json: "white" is .* Write a value above 0, or a percentile'):
            assert FolderDataset(make_folder(tmp_path / "c", {"a.tif": GRAY}, white=white)).pixel_format


def test_the_whole_range_keeps_the_rule_of_0_1_0(tmp_path: Path) -> None:
    dataset = FolderDataset(make_folder(tmp_path / "data", {"a.tif": (GRAY.astype(int) * 37).astype(np.uint16)}))
    assert dataset.pixel_format.white == 65535


def test_four_bands_are_rgb_unless_all_are_selected(tmp_path: Path) -> None:
    four = {"a.tif": FIVE[..., :4], "b.tif": FIVE[..., 1:]}
    root = make_folder(tmp_path / "data", {})
    for name, values in four.items():
        write_image(root / "images" / name, values, extrasamples=[0])
    rgb = FolderDataset(root)
    (note,) = notes(rgb)
    assert 'the fourth band is not used. Set "bands" in classes.json to "all"' in note
    assert np.array_equal(rgb.read_image("a").permute(1, 2, 0), FIVE[..., :3])
    for bands, expected in (("all", FIVE[..., :4]), ([4, 3, 2], FIVE[..., [3, 2, 1]])):
        (root / "classes.json").write_text(json.dumps({"classes": ["a", "b"], "bands": bands}))
        dataset = FolderDataset(root)
        assert np.array_equal(dataset.read_image("a").permute(1, 2, 0), expected), bands
        assert len(notes(dataset)) == 1


def test_five_bands_are_all_used_if_the_images_agree(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", {"a.tif": FIVE, "b.tif": FIVE[::-1].copy()})
    dataset = FolderDataset(root)
    assert "all 5 bands are used" in notes(dataset)[0]
    assert np.array_equal(dataset.read_image("a").permute(1, 2, 0), FIVE)
    write_image(root / "images" / "c.tif", FIVE[..., :3])
    with pytest.raises(UserError, match=r"c.tif: it has 3 bands, and .* has 5. Select bands"):
        assert FolderDataset(root).pixel_format


def test_transparency_is_not_a_band(tmp_path: Path) -> None:
    dataset = FolderDataset(make_folder(tmp_path / "data", {"a.png": FIVE[..., :4]}))
    assert not notes(dataset) and dataset.read_image("a").shape == (3, 40, 64)


@pytest.mark.parametrize("bands", [[0], [], "red", [1, "2"], 3])
def test_invalid_bands_are_errors(tmp_path: Path, bands: Any) -> None:
    with pytest.raises(UserError, match=r'classes.json: "bands" is .* Write numbers from 1, or "all"'):
        assert FolderDataset(make_folder(tmp_path / "data", {"a.tif": FIVE}, bands=bands)).pixel_format


def test_check_reports_range_depths_and_pages(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", {"a.tif": GRAY, "b.tif": GRAY // 2, "c.png": FIVE[..., :3]})
    tifffile.imwrite(root / "images" / "d.tif", np.stack([GRAY, GRAY]), photometric="minisblack")
    found = {(finding.kind, finding.severity): finding for finding in semiseg.check(root).findings}
    assert "images: 16-bit, values 100 to 1730" in found["pixel-range", "note"].text
    mixed = found["pixel-range", "warning"].text
    assert "3 of 4 images have more than 8 bits, the others, such as c.png, have 8" in mixed
    pages = found["image-pages", "warning"]
    assert pages.files == ("images/d.tif",) and "1 image of several pages, of which the first is used" in pages.text
    assert "d.tif (2 pages)" in pages.text


def test_values_below_zero_are_errors(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "data", {"a.tif": GRAY.astype(np.int16) - 1000})
    with pytest.raises(UserError, match=r"a.tif: images hold values below 0, such as -799. Add a constant"):
        assert FolderDataset(root).pixel_format


def test_compressed_tiff_is_read_or_names_the_extra(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio", reason="rasterio writes the file")
    path = tmp_path / "lzw.tif"
    options = {"driver": "GTiff", "count": 3, "height": 40, "width": 64, "dtype": "uint16", "compress": "lzw"}
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(path, "w", **options) as file:
        file.write(np.moveaxis(COLOR, -1, 0))
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match=r"TIFF with LZW compression needs an extra.*'semiseg\[tiff\]'"):
            read(path, PixelFormat(white=3000))
    else:
        assert np.array_equal(read(path, PixelFormat(white=3000)), scaled(COLOR, 3000))


def test_cached_images_depend_on_the_format(tmp_path: Path) -> None:
    from semiseg.data.stream.decoded_cache import DecodedCache
    from semiseg.data.stream.image_reader import ImageReader

    root = make_folder(tmp_path / "data", {"a.tif": FIVE})
    cache = DecodedCache(tmp_path / "cache")
    for format in (PixelFormat((1, 2, 3, 4, 5)), PixelFormat((4, 3, 2)), PixelFormat((2,))):
        dataset = FolderDataset(root)
        dataset.pixel_format = format
        expected = FIVE[..., [band - 1 for band in format.bands or ()]]
        for _ in range(2):
            pixels = ImageReader(dataset, cache=cache).image("a").pixels
            assert torch.equal(pixels, torch.from_numpy(expected.copy()).permute(2, 0, 1))
