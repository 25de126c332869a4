"""Read and write georeferenced TIFF files in windows (extra: geo)."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import IGNORE, Color
from semiseg.data.files.image_files import to_8_bits
from semiseg.data.files.pixel_format import RGB, PixelFormat
from semiseg.data.files.stored_values import missing_values
from semiseg.errors import UserError
from semiseg.inference.formats.write_error import WriteError

GEO_TAGS = (33550, 34264, 34735)  # ModelPixelScale, ModelTransformation, GeoKeyDirectory
EXTRA = "run pip install 'semiseg[geo]'"
TILE = 256  # pixels
ORIENTATION = 274
SIXTEEN_BITS = 65535.0
CACHE_MB = 256  # of GDAL's blocks; its default is a twentieth of the machine's memory


def has_rasterio() -> bool:
    """Return whether the extra is installed."""
    return find_spec("rasterio") is not None


def is_geotiff(path: Path) -> bool:
    """Return whether a file is an upright TIFF with a georeference, reading only its header."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    from tifffile import TiffFile

    try:
        with TiffFile(path) as tiff:
            tags = tiff.pages.first.tags
            turned = ORIENTATION in tags and tags[ORIENTATION].value != 1  # GDAL does not turn images
            return any(tag in tags for tag in GEO_TAGS) and not turned
    except Exception:  # tifffile raises many types for damaged files, which are reported when they are read
        return False


@contextmanager
def open_raster(path: Path) -> Iterator[Any]:
    """Open a dataset of rasterio for reading.

    Raises:
        UserError: The file cannot be read.
    """
    import rasterio

    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with reading(str(path)):
            dataset = rasterio.open(path)
        with dataset:
            yield dataset


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn rasterio's errors about reading a file into UserError."""
    from rasterio.errors import RasterioError

    try:
        yield
    except RasterioError as error:
        problem = f"the image cannot be read ({' '.join(str(error).split())[:120]})"
        raise UserError(problem, path=name, fix="replace or remove it") from None


class RasterImage:
    """An image read in windows from a dataset of rasterio: the bands of the format, the first three, or one as gray.

    Args:
        dataset: The open dataset.
        name: The file, for messages.
        format: The bands and the white value.
    """

    def __init__(self, dataset: Any, name: str, format: PixelFormat = RGB) -> None:
        self.dataset, self.name, self.white = dataset, name, format.white
        self.size = dataset.height, dataset.width
        self.bands = list(format.bands or ((1, 2, 3) if dataset.count >= 3 else (1, 1, 1)))
        if max(self.bands) > dataset.count:
            problem = f"it has {dataset.count} bands, and band {max(self.bands)} is to be read"
            raise UserError(problem, path=name, fix="give images like those of the training data")
        self.selected = format.bands is not None
        self.inverted = dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        self.palette = palette_of(dataset)

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Return the pixels of a rectangle, uint8 ``(channels, height, width)``."""
        with reading(self.name):
            return self._as_uint8(self.dataset.read(self.bands, window=_window(top, left, height, width)))

    def valid(self, top: int, left: int, height: int, width: int) -> NDArray[np.bool_]:
        """Return where a rectangle holds data, from its nodata value, mask or alpha band."""
        with reading(self.name):
            mask: NDArray[np.bool_] = self.dataset.dataset_mask(window=_window(top, left, height, width)) > 0
            return mask

    def reduced(self, factor: int) -> Tensor:
        """Return about every ``factor``-th pixel, uint8 ``(channels, ceil(H / factor), ceil(W / factor))``."""
        shape = tuple(-(-side // factor) for side in self.size)
        with reading(self.name):
            return self._as_uint8(self.dataset.read(self.bands, out_shape=(len(self.bands), *shape)))

    def _as_uint8(self, values: NDArray[Any]) -> Tensor:
        if values.dtype != np.uint8 and self.white is not None:
            values = to_8_bits(values, self.white, missing_values(values, self.dataset.nodata))
        elif values.dtype == np.uint16:
            values = self._default_8_bits(values)
        if values.dtype != np.uint8:
            problem = f"its values of type {values.dtype} cannot be scaled in windows"
            raise UserError(problem, path=self.name, fix="convert it to 8 bits, or pass --mode whole")
        if self.palette is not None:
            values = np.moveaxis(self.palette[values[0]], -1, 0)
        return torch.from_numpy(255 - values if self.inverted else values)

    def _default_8_bits(self, values: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """Scale 16 bits without a white value as `read_image_file` does, which rounds gray, RGB and others apart."""
        if not self.selected and self.dataset.count < 3:
            return (values.astype(np.float32) * (255 / SIXTEEN_BITS)).astype(np.uint8)
        is_rgb = self.dataset.colorinterp[0].name == "red" and self.dataset.interleaving.name == "pixel"
        if is_rgb and not self.selected:
            return (values >> 8).astype(np.uint8)
        return to_8_bits(values, SIXTEEN_BITS, missing_values(values, self.dataset.nodata))


def palette_of(dataset: Any) -> NDArray[np.uint8] | None:
    """Return the colors of an indexed dataset, uint8 ``(256, 3)``, or None."""
    if dataset.count != 1 or dataset.colorinterp[0].name != "palette":
        return None
    table = np.zeros((256, 3), dtype=np.uint8)
    for value, color in dataset.colormap(1).items():
        table[value] = color[:3]
    return table


@contextmanager
def create_raster(
    path: Path, image: RasterImage, palette: Sequence[Color] = (), **profile: Any
) -> Iterator[Callable[[NDArray[Any], int, int], None]]:
    """Create a GeoTIFF with the size and georeference of an image; yield a function that writes a rectangle.

    The function takes values ``(h, w)`` or ``(bands, h, w)``, the first row and the first column.

    Args:
        path: The file.
        image: The image.
        palette: The color of each value, or empty.
        profile: ``count``, ``dtype`` and ``nodata`` of rasterio.
    """
    import rasterio
    from rasterio.errors import RasterioError

    source = image.dataset
    shape = {"height": source.height, "width": source.width, "crs": source.crs}
    if not source.transform.is_identity:
        shape["transform"] = source.transform
    if min(image.size) >= TILE:
        shape |= {"tiled": True, "blockxsize": TILE, "blockysize": TILE}
    options = {"driver": "GTiff", "compress": "deflate", "bigtiff": "if_safer"}
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE_MB), rasterio.open(path, "w", **options, **shape, **profile) as dataset:
            if source.gcps[0] and source.transform.is_identity:
                dataset.gcps = source.gcps
            if palette:
                dataset.write_colormap(1, {value: (*color, 255) for value, color in enumerate(palette)})

            def write(values: NDArray[Any], top: int, left: int) -> None:
                bands = {"indexes": 1} if values.ndim == 2 else {}
                dataset.write(values, window=_window(top, left, *values.shape[-2:]), **bands)

            yield write
    except RasterioError as error:
        reason = " ".join(str(error).split())[:120]
        raise WriteError(f"cannot be written ({reason})", path=path, fix="choose another --out") from None


def write_geojson(
    path: Path, mask: NDArray[np.uint8], classes: Sequence[str], image: RasterImage | None = None
) -> None:
    """Write the regions of a mask as polygons, in the coordinates of a raster, else in pixels from the upper left.

    Args:
        path: The file.
        mask: Class indices ``(H, W)``; 255 is left out.
        classes: The names of the classes.
        image: An image with a georeference.
    """
    from rasterio.features import shapes

    source = image.dataset if image is not None and not image.dataset.transform.is_identity else None
    found = shapes(mask, mask=mask != IGNORE, **({"transform": source.transform} if source else {}))
    features = [
        {"type": "Feature", "properties": {"class": classes[int(value)], "value": int(value)}, "geometry": geometry}
        for geometry, value in found
    ]
    content: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if source and source.crs and (code := source.crs.to_epsg()):
        content["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{code}"}}
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def require_rasterio(purpose: str) -> None:
    """Raise UserError if the extra is not installed."""
    if not has_rasterio():
        raise UserError(f"{purpose} needs an extra", fix=EXTRA)


def _window(top: int, left: int, height: int, width: int) -> Any:
    from rasterio.windows import Window

    return Window(left, top, width, height)
