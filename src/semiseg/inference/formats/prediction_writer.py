"""Write the files of a prediction: mask, overlay, confidence, probabilities and polygons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import IGNORE, Color
from semiseg.inference.bounded_predictor import BoundedPredictor, Pixels
from semiseg.inference.formats.geotiff import RasterImage, create_raster, open_raster, write_geojson
from semiseg.inference.formats.labelme_results import write_labelme
from semiseg.inference.formats.write_error import complete_file
from semiseg.inference.formats.yolo_results import write_yolo
from semiseg.visualization.mask_pictures import Picture, indexed_picture, legend, overlay, stack

MASK, OVERLAY, CONFIDENCE, PROBABILITIES, GEOJSON = "mask", "overlay", "confidence", "probabilities", "geojson"
LABELME, YOLO = "labelme", "yolo"
FOLDERS = {
    MASK: "",
    OVERLAY: "overlays",
    CONFIDENCE: "confidence",
    PROBABILITIES: "probabilities",
    GEOJSON: "geojson",
    LABELME: "labelme",
    YOLO: "yolo/labels",
}
"""The folder of each kind of file below the output directory."""
OVERLAY_SIDE = 16_384  # pixels; overlays of larger images are reduced
LEGEND_WIDTH = 240
ROWS = 1024  # of an overlay at a time


class Image(Pixels, Protocol):
    """An image to predict, which can also be reduced."""

    def reduced(self, factor: int) -> Tensor:
        """Return every ``factor``-th pixel, uint8 ``(3, ceil(H / factor), ceil(W / factor))``."""


class Part(NamedTuple):
    """A predicted rectangle of an image.

    Attributes:
        top: Its first row.
        left: Its first column.
        mask: uint8 ``(h, w)``.
        confidence: uint8 ``(h, w)``, 255 for certain; 0 if no kind of file needs it.
        probabilities: float32 ``(C, h, w)``; any scores if no kind of file needs them.
    """

    top: int
    left: int
    mask: NDArray[np.uint8]
    confidence: NDArray[np.uint8]
    probabilities: Tensor

    @property
    def place(self) -> tuple[slice, slice]:
        """The rows and columns of the rectangle in the image."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def file_of(out: Path, name: str, kind: str, georeferenced: bool) -> Path:
    """Return the file of a kind for the image ``name``."""
    suffixes = {PROBABILITIES: ".npy", GEOJSON: ".geojson", LABELME: ".json", YOLO: ".txt"}
    suffix = suffixes.get(kind, ".png")
    if georeferenced and kind in (MASK, CONFIDENCE, PROBABILITIES):
        suffix = ".tif"
    return out / FOLDERS[kind] / f"{name}{suffix}"


class PredictionWriter:
    """Predict images and write their files.

    Args:
        predictor: Predicts the probabilities of an image.
        classes: The names of the classes.
        palette: Their colors.
        kinds: What to write, of the keys of ``FOLDERS``.
        min_confidence: Pixels below it become 255 in the mask.
    """

    def __init__(
        self,
        predictor: BoundedPredictor,
        classes: Sequence[str],
        palette: Sequence[Color],
        kinds: Sequence[str],
        min_confidence: float = 0,
    ) -> None:
        self.predictor, self.classes, self.palette, self.kinds = predictor, classes, palette, kinds
        self.min_confidence = min_confidence
        self.needs_probabilities = min_confidence > 0 or CONFIDENCE in kinds or PROBABILITIES in kinds

    def parts(self, image: Image, raster: RasterImage | None = None) -> Iterator[Part]:
        """Predict an image; yield disjoint rectangles that cover it. Pixels without data in ``raster`` become 255."""
        for top, left, probabilities in self.predictor.regions(image, self.needs_probabilities):
            confidence, classes = probabilities.max(dim=0)
            mask = classes.to(torch.uint8)
            if self.min_confidence:
                mask[confidence < self.min_confidence] = IGNORE
            values = mask.cpu().numpy()
            if raster is not None:
                values[~raster.valid(top, left, *values.shape)] = IGNORE
            gray = np.broadcast_to(np.uint8(0), values.shape)
            if self.needs_probabilities:
                gray = (confidence.cpu() * 255).round().to(torch.uint8).numpy()
            yield Part(top, left, values, gray, probabilities)

    def arrays(self, image: Image) -> dict[str, NDArray[np.uint8]]:
        """Return the mask and the confidence of an image, uint8 ``(H, W)``, by kind."""
        arrays = self._arrays(image.size)
        for part in self.parts(image):
            _fill(arrays, part)
        return arrays

    def render(self, image: Image) -> dict[str, Picture]:
        """Return the mask of an image, and its overlay and confidence if asked for, as pictures."""
        arrays = self.arrays(image)
        return {kind: self._picture(kind, image, arrays) for kind in self.kinds}

    def write(
        self, image: Image, files: Mapping[str, Path], mask_file: Path, raster: RasterImage | None = None
    ) -> None:
        """Predict an image and write its files. Each is written completely or not at all.

        Args:
            image: The image.
            files: The files to write by kind.
            mask_file: The file of the mask, which exists already if ``files`` lacks it.
            raster: The georeference of the image, if it has one.

        Raises:
            WriteError: A file cannot be written.
            UserError: The image cannot be read or predicted.
        """
        written_at_once = {kind: path for kind, path in files.items() if path.suffix in (".tif", ".npy")}
        in_memory = mask_file.suffix != ".tif"
        arrays = self._arrays(image.size if in_memory else (0, 0))
        with ExitStack() as opened:
            open_sinks = (self._sink(kind, path, image.size, raster) for kind, path in written_at_once.items())
            sinks = [opened.enter_context(sink) for sink in open_sinks]
            if in_memory:
                sinks.append(lambda part: _fill(arrays, part))
            for part in self.parts(image, raster) if sinks else ():
                for add in sinks:
                    add(part)
        rest = {kind: path for kind, path in files.items() if kind not in written_at_once}
        if rest and not in_memory:
            with open_raster(mask_file) as dataset:
                arrays[MASK] = dataset.read(1)
        for kind, path in rest.items():
            with complete_file(path) as draft:
                if kind == GEOJSON:
                    write_geojson(draft, arrays[MASK], self.classes, raster)
                elif kind == LABELME:
                    photograph = f"{path.stem}{Path(image.name).suffix}"
                    write_labelme(draft, photograph, arrays[MASK], self.classes)
                elif kind == YOLO:
                    write_yolo(draft, arrays[MASK], self.classes)
                else:
                    self._picture(kind, image, arrays).save(draft, format="PNG")

    @contextmanager
    def _sink(
        self, kind: str, path: Path, size: tuple[int, int], raster: RasterImage | None
    ) -> Iterator[Callable[[Part], None]]:
        """Open a GeoTIFF or an array on disk, and yield a function that adds a part to it."""
        bands = len(self.classes) if kind == PROBABILITIES else 1
        with complete_file(path) as draft:
            if path.suffix == ".npy":
                array = np.lib.format.open_memmap(draft, "w+", dtype=np.float16, shape=(bands, *size))

                def write(part: Part) -> None:
                    array[:, *part.place] = part.probabilities.half().cpu().numpy()

                yield write
                array.flush()
                return
            assert raster is not None
            profile = {"count": bands, "dtype": "float32" if kind == PROBABILITIES else "uint8"}
            profile |= {"nodata": IGNORE} if kind == MASK else {}
            with create_raster(draft, raster, self.palette if kind == MASK else (), **profile) as add:
                yield lambda part: add(_values(kind, part), part.top, part.left)

    @staticmethod
    def _arrays(size: tuple[int, int]) -> dict[str, NDArray[np.uint8]]:
        return {kind: np.empty(size, dtype=np.uint8) for kind in (MASK, CONFIDENCE)}

    def _picture(self, kind: str, image: Image, arrays: Mapping[str, NDArray[np.uint8]]) -> Picture:
        if kind == MASK:
            return indexed_picture(torch.from_numpy(arrays[MASK]), self.palette)
        if kind == CONFIDENCE:
            return PIL.Image.fromarray(arrays[CONFIDENCE])
        picture = overlay_picture(image, arrays[MASK], self.palette, self.classes)
        return stack([picture, legend(self.classes, self.palette, max(picture.width, LEGEND_WIDTH))])


def overlay_picture(
    image: Image, mask: NDArray[np.uint8], palette: Sequence[Color], classes: Sequence[str] = ()
) -> Picture:
    """Return the image blended with the colors of its mask ``(H, W)``, reduced to at most ``OVERLAY_SIDE`` pixels."""
    factor = -(-max(image.size) // OVERLAY_SIDE)
    pixels, labels = image.reduced(factor), torch.from_numpy(mask[::factor, ::factor])
    canvas = PIL.Image.new("RGB", (labels.shape[1], labels.shape[0]))
    for top in range(0, len(labels), ROWS):
        part = slice(top, top + ROWS)
        canvas.paste(overlay(pixels[:, part], labels[part], palette, classes=classes), (0, top))
    return canvas


def _fill(arrays: Mapping[str, NDArray[np.uint8]], part: Part) -> None:
    arrays[MASK][part.place] = part.mask
    arrays[CONFIDENCE][part.place] = part.confidence


def _values(kind: str, part: Part) -> NDArray[np.generic]:
    return part.probabilities.cpu().numpy() if kind == PROBABILITIES else getattr(part, kind)
