"""GeoTIFF in, GeoTIFF out: georeference, nodata, windows from disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

import semiseg
from semiseg.data.files.image_files import read_image_file
from semiseg.data.files.pixel_format import PixelFormat
from semiseg.inference.files import image_source, predict_files
from semiseg.inference.formats import prediction_writer
from semiseg.inference.formats.geotiff import RasterImage, is_geotiff, open_raster

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

Call = Callable[..., tuple[int, str, str]]
TRANSFORM = from_origin(500_000, 5_400_000, 0.25, 0.25)


def write_geotiff(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    """Write pixels ``(bands, H, W)``."""
    bands, height, width = pixels.shape
    profile = {"crs": "EPSG:32632", "transform": TRANSFORM, "photometric": "RGB"} | profile
    shape = {"count": bands, "height": height, "width": width, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", driver="GTiff", **shape, **profile) as file:
        file.write(pixels)
    return path


@pytest.fixture
def ortho(tmp_path: Path) -> Path:
    """An RGB image of 300 x 270 pixels, whose lower left corner has no data."""
    pixels = np.random.default_rng(0).integers(1, 256, (3, 270, 300), dtype=np.uint8)
    pixels[:, 200:, :50] = 0
    return write_geotiff(tmp_path / "ortho.tif", pixels, nodata=0)


def expected_mask(run: Path, path: Path) -> np.ndarray:
    expected = semiseg.load(run, accelerator="cpu")(path).mask.numpy()
    expected[200:, :50] = 255
    return expected


def test_mask_has_the_georeference_of_the_image(run: Path, call: Call, ortho: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(run, ortho, "--out", out, "--overlay", "--confidence") == (0, f"1 masks in {out}\n", "")
    with rasterio.open(out / "ortho.tif") as mask:
        assert (mask.crs.to_epsg(), mask.transform, mask.nodata) == (32632, TRANSFORM, 255)
        assert (mask.count, mask.dtypes, mask.colormap(1)[1]) == (1, ("uint8",), (228, 87, 86, 255))
        assert np.array_equal(mask.read(1), expected_mask(run, ortho))
    with rasterio.open(out / "confidence" / "ortho.tif") as confidence:
        assert confidence.transform == TRANSFORM and confidence.shape == (270, 300)
    overlay = np.array(Image.open(out / "overlays" / "ortho.png"))
    assert overlay.shape[0] > 270 and (overlay[200:270, :50] == 0).all()  # pixels without data stay as they are
    assert np.array_equal(np.array(Image.open(out / "ortho.tif")), expected_mask(run, ortho))


def test_geojson_and_probabilities_are_georeferenced(run: Path, call: Call, ortho: Path, tmp_path: Path) -> None:
    from rasterio.features import rasterize

    for format in ("geojson", "probabilities"):
        assert call(run, ortho, "--out", tmp_path / format, "--format", format)[0] == 0
    content = json.loads((tmp_path / "geojson" / "geojson" / "ortho.geojson").read_text())
    assert content["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32632"
    shapes = [(feature["geometry"], feature["properties"]["value"]) for feature in content["features"]]
    rendered = rasterize(shapes, (270, 300), fill=255, transform=TRANSFORM, dtype=np.uint8)
    assert np.array_equal(rendered, expected_mask(run, ortho))
    with rasterio.open(tmp_path / "probabilities" / "probabilities" / "ortho.tif") as file:
        assert (file.count, file.dtypes[0], file.transform) == (7, "float32", TRANSFORM)
        np.testing.assert_allclose(file.read().sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_windows_from_disk_equal_windows_of_the_decoded_image(
    run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (3, 90, 130), dtype=np.uint16)
    photo = write_geotiff(tmp_path / "a.tif", pixels if dtype == "uint16" else (pixels >> 8).astype(np.uint8))
    arguments = (run, photo, "--mode", "slide", "--overlay", "--confidence")
    assert call(*arguments, "--out", tmp_path / "memory")[0] == 0
    monkeypatch.setattr(image_source, "READ_AHEAD", 0)
    monkeypatch.setattr(image_source, "read_image_file", None)  # not decoded as a whole
    monkeypatch.setattr(prediction_writer, "OVERLAY_SIDE", 70)
    assert call(*arguments, "--out", tmp_path / "disk")[0] == 0
    for name in ("a.tif", "confidence/a.tif"):
        with rasterio.open(tmp_path / "memory" / name) as one, rasterio.open(tmp_path / "disk" / name) as other:
            assert np.array_equal(one.read(), other.read())
    overlay = np.array(Image.open(tmp_path / "disk" / "overlays" / "a.png"))  # reduced to 65 x 45 pixels
    assert (overlay[:45, 65:] == 255).all() and (overlay[:45, :65] != 255).any(axis=-1).all()


KINDS = {
    "gray": (1, np.uint8, PixelFormat()),
    "four bands": (4, np.uint8, PixelFormat()),
    "16 bits": (1, np.uint16, PixelFormat()),
    "16 bits, white": (1, np.uint16, PixelFormat(white=4095)),
    "five bands of 16 bits": (5, np.uint16, PixelFormat(bands=(5, 2), white=10_000)),
    "selected bands of 16 bits": (4, np.uint16, PixelFormat(bands=(3, 1))),
    "palette": (1, np.uint8, PixelFormat()),
    "minimum is white": (1, np.uint8, PixelFormat()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_windows_of_a_raster_have_the_colors_of_the_decoded_image(tmp_path: Path, kind: str) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "a.tif"
    bands, dtype, format = KINDS[kind]
    pixels = rng.integers(0, np.iinfo(dtype).max, (bands, 40, 50)).astype(dtype)
    if kind == "palette":
        profile = {"photometric": "palette", "count": 1, "height": 40, "width": 50, "dtype": "uint8"}
        with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32632", transform=TRANSFORM, **profile) as file:
            file.write_colormap(1, {value: (value, 255 - value, 9, 255) for value in range(256)})
            file.write(pixels)
    else:
        names = {"minimum is white": "miniswhite", "four bands": "rgb"}
        write_geotiff(path, pixels, photometric=names.get(kind, "minisblack"))
    expected = read_image_file(path, format)
    with open_raster(path) as dataset:
        raster = RasterImage(dataset, "a.tif", format)
        assert np.array_equal(raster.read(10, 20, 15, 25), expected[:, 10:25, 20:45])
        assert np.array_equal(raster.reduced(1), expected)
    assert is_geotiff(path)


def test_an_image_that_is_not_upright_has_no_georeference(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50), dtype=np.uint8)
    path = write_geotiff(tmp_path / "a.tif", pixels)
    assert is_geotiff(path)
    tifffile.imwrite(path, np.moveaxis(pixels, 0, -1), extratags=[(33550, 12, 3, (1.0, 1.0, 0.0)), (274, 3, 1, 6)])
    assert not is_geotiff(path)


def test_a_tiff_without_georeference_gets_a_png(run: Path, call: Call, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 60, 70), dtype=np.uint8)
    tifffile.imwrite(photo := tmp_path / "a.tif", np.moveaxis(pixels, 0, -1), photometric="rgb")
    assert call(run, photo, "--out", tmp_path / "out") == (0, f"1 masks in {tmp_path / 'out'}\n", "")
    assert Image.open(tmp_path / "out" / "a.png").size == (70, 60)


def test_without_rasterio_the_lost_georeference_is_noted(
    run: Path, call: Call, ortho: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (predict_files, image_source):
        monkeypatch.setattr(module, "has_rasterio", lambda: False)
    status, _, errors = call(run, ortho, "--out", tmp_path / "out")
    assert status == 0 and errors.splitlines() == [
        f"note: the masks of 1 GeoTIFF files such as {ortho} get no georeference. "
        "To keep it, run pip install 'semiseg[geo]'"
    ]
    expected = semiseg.load(run, accelerator="cpu")(ortho).mask
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "ortho.png")), expected)


def test_a_damaged_geotiff_is_reported_and_the_others_predicted(
    run: Path, call: Call, ortho: Path, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "good.tif").write_bytes(ortho.read_bytes())
    (tmp_path / "photos" / "bad.tif").write_bytes(ortho.read_bytes()[:60_000])
    status, _, errors = call(run, tmp_path / "photos", "--out", tmp_path / "out")
    assert status == 2 and "bad.tif: the image cannot be read" in errors and "Traceback" not in errors
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good.tif"]


MEASURE = """
import resource, sys
from semiseg import cli

status = cli.main()
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(status)
"""


@pytest.mark.long
def test_a_large_geotiff_is_predicted_within_bounded_memory(run: Path, tmp_path: Path) -> None:
    """30 million pixels: the decoded image and its mask alone would take 120 MB, its logits 840 MB."""
    row = np.random.default_rng(0).integers(0, 256, (3, 500, 6000), dtype=np.uint8)
    profile = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    write_geotiff(tmp_path / "small.tif", row[:, :, :1000], **profile)
    write_geotiff(tmp_path / "large.tif", np.tile(row, (1, 10, 1)), **profile)
    peaks = {}
    for name in ("small", "large"):
        command = ["predict", run, tmp_path / f"{name}.tif", "--out", tmp_path / "out", "--mode", "slide"]
        options = ["--window", "384", "--accelerator", "cpu"]
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *map(str, command), *options],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        peaks[name] = int(done.stdout.split()[-1])
    with rasterio.open(tmp_path / "out" / "large.tif") as mask:
        assert mask.shape == (5000, 6000) and mask.transform == TRANSFORM
        assert len(np.unique(mask.read(1, window=((4000, 5000), (4000, 6000))))) > 1
    assert peaks["large"] - peaks["small"] < 400, peaks  # MB; the whole image would add 960
