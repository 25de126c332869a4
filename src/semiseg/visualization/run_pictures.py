"""Pictures that compare the predictions of several runs: image | each run | ground truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from semiseg.data.dataset import Color, SegmentationDataset, read_sample
from semiseg.data.preview_selection import evenly_spaced
from semiseg.errors import UserError
from semiseg.visualization.mask_pictures import (
    GAP,
    Picture,
    colorize,
    grid,
    legend,
    resize_to_width,
    stack,
    to_picture,
)


@dataclass(frozen=True)
class LoadedRun:
    """A run whose network is loaded.

    Attributes:
        predict: Maps an image, uint8 ``(3, H, W)``, to class indices ``(H, W)``.
        dataset: The run's images and masks.
        ids: The images to compare on: the test list, or the val list if there is no test list.
        classes: Class names.
        palette: One RGB color per class.
    """

    predict: Callable[[Tensor], Tensor]
    dataset: SegmentationDataset
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    palette: tuple[Color, ...]


def comparison_picture(
    runs: Mapping[str, LoadedRun], rows: int = 6, cell_width: int = 320
) -> tuple[Picture, list[str]]:
    """Return image | each run | ground truth for images evenly spaced in the common list, and the ids of these images.

    Args:
        runs: At least one run by name, all with the same classes; the images come from the first one's data.
        rows: Number of images.
        cell_width: Width of each picture in pixels.

    Raises:
        UserError: The classes differ, or no image is in the list of every run.
    """
    check_classes({name: run.classes for name, run in runs.items()})
    ids = list(evenly_spaced(common_ids(runs), rows))
    return stack([prediction_grid(runs, ids, cell_width), run_legend(runs, cell_width)]), ids


def common_ids(runs: Mapping[str, LoadedRun]) -> list[str]:
    """Return the images with masks that are in the list of every run.

    Raises:
        UserError: There is no such image.
    """
    first = next(iter(runs.values()))
    ids = [id for id in first.ids if first.dataset.has_mask(id) and all(id in run.ids for run in runs.values())]
    if not ids:
        problem = f"{', '.join(runs)}: the runs have no val or test image in common"
        raise UserError(problem, fix="compare runs on the same data")
    return ids


def prediction_grid(runs: Mapping[str, LoadedRun], ids: Sequence[str], cell_width: int = 320) -> Picture:
    """Return a row for each image, which needs a mask: image | each run | ground truth."""
    first = next(iter(runs.values()))
    rows = []
    for id in ids:
        sample = read_sample(first.dataset, id)
        assert sample.mask is not None
        images = [
            sample.image if run.dataset.pixel_format == first.dataset.pixel_format else run.dataset.read_image(id)
            for run in runs.values()
        ]
        predicted = [run.predict(image) for run, image in zip(runs.values(), images, strict=True)]
        masks = [*predicted, sample.mask]
        image = resize_to_width(to_picture(sample.image), cell_width, smooth=True)
        rows.append([image, *(resize_to_width(colorize(mask, first.palette), cell_width) for mask in masks)])
    return grid(["image", *runs, "ground truth"], rows)


def run_legend(runs: Mapping[str, LoadedRun], cell_width: int = 320) -> Picture:
    """Return the legend of the classes, as wide as a ``prediction_grid`` of the runs."""
    first = next(iter(runs.values()))
    return legend(first.classes, first.palette, (len(runs) + 2) * (cell_width + GAP) + GAP)


def check_classes(classes: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError if the runs do not all have the same classes."""
    first, expected = next(iter(classes.items()), ("", ()))
    for name, found in classes.items():
        if tuple(found) != tuple(expected):
            raise UserError(
                f"{first} and {name} have different classes ({', '.join(expected)}; {', '.join(found)})",
                fix="compare runs with the same classes",
            )
