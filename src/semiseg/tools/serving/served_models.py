"""The networks that are served, by label, and their predictions for an image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from torch import Tensor

from semiseg.data.dataset import Color, SegmentationDataset
from semiseg.data.files.pixel_format import PixelFormat
from semiseg.data.preview_selection import evenly_spaced
from semiseg.errors import UserError, lookup
from semiseg.inference.predictor import Predictor
from semiseg.tools.models.trained_model import Model, load
from semiseg.training.run_data import open_run_data
from semiseg.training.run_directory import RunDirectory

SAMPLES = 12


@dataclass(frozen=True)
class Answer:
    """A prediction: ``mask`` uint8 ``(H, W)`` and ``confidence`` float ``(H, W)`` in [0, 1], both on the CPU."""

    label: str
    mask: Tensor
    confidence: Tensor
    classes: tuple[str, ...]
    palette: tuple[Color, ...]

    def shares(self) -> dict[str, float]:
        """Return the fraction of pixels of each class, in [0, 1]."""
        counts = np.bincount(self.mask.numpy().ravel(), minlength=len(self.classes))
        return {name: float(count / self.mask.numel()) for name, count in zip(self.classes, counts, strict=True)}


class Networks:
    """All networks of one or several runs.

    Attributes:
        predictors: The networks by label: ``NETWORK`` for a single run, ``RUN/NETWORK`` for several.
        defaults: The labels of the default network of each run, used if a request names none.
        samples: Ids of sample images from the test or val list of the first run; empty if its data cannot be opened.

    Raises:
        UserError: A run or checkpoint does not exist.
    """

    def __init__(
        self, runs: Sequence[str], checkpoint: str = "best", accelerator: str = "auto", data: str | Path | None = None
    ) -> None:
        self.predictors: dict[str, tuple[Model, Predictor]] = {}
        self.defaults: list[str] = []
        self._lock = Lock()  # requests run in threads; one image at a time bounds memory
        models = [load(run, checkpoint=checkpoint, accelerator=accelerator) for run in runs]
        prefixes = number_duplicates([Path(run).resolve().name for run in runs])
        for prefix, model in zip(prefixes, models, strict=True):
            for name in model.choices:
                label = name if len(models) == 1 else f"{prefix}/{name}"
                self.predictors[label] = (model, model.make_predictor(name))
                if name == model.network:
                    self.defaults.append(label)
        self._data, self.samples = find_samples(models[0], data)

    def read_sample(self, name: str) -> Tensor:
        """Return a sample as uint8 ``(3, H, W)``; raise UserError if it does not exist."""
        lookup("sample", name, dict.fromkeys(self.samples))
        assert self._data is not None
        return self._data.read_image(name)

    def peak_pixels(self, height: int, width: int) -> int:
        """Return the number of pixels that the most expensive network processes for an image of this size."""
        return max(predictor.peak_pixels(height, width) for _, predictor in self.predictors.values())

    def segment(self, image: Tensor | Callable[[PixelFormat], Tensor], labels: Iterable[str] = ()) -> list[Answer]:
        """Segment an image with the networks of these labels, or the default ones.

        Args:
            image: uint8 ``(channels, H, W)``, or a function that reads it in the pixel format of a network.
            labels: The labels.

        Raises:
            UserError: A label is unknown.
        """
        chosen = {label: lookup("network", label, self.predictors) for label in labels or self.defaults}
        answers, read = [], {}
        for label, (model, predictor) in chosen.items():
            format = predictor.pixel_format
            if format not in read:
                read[format] = image if isinstance(image, Tensor) else image(format)
            with self._lock:
                mask, confidence = predictor(read[format])
            answers.append(Answer(label, mask.cpu(), confidence.cpu(), model.classes, model.palette))
        return answers


def number_duplicates(names: Sequence[str]) -> list[str]:
    """Return the names; number those that occur several times."""
    return [name if names.count(name) == 1 else f"{name}-{names[:i].count(name) + 1}" for i, name in enumerate(names)]


def find_samples(model: Model, data: str | Path | None = None) -> tuple[SegmentationDataset | None, tuple[str, ...]]:
    """Return the data set of the model, or at ``data``, and ids of sample images from its test or val list.

    A sample is a picture of three channels, so a model that reads certain bands has none.
    """
    if model.pixel_format.bands is not None:
        return None, ()
    try:
        dataset = open_run_data(model.config, model.path, data)
        if model.run is None:
            ids = dataset.split("test") or dataset.split("val") or ()
        else:
            lists = RunDirectory(model.run).read_split(dataset, unlabeled=False)
            ids = lists.test or lists.val
    except UserError:  # it may be on another machine
        if data is not None:
            raise
        return None, ()
    return dataset, tuple(evenly_spaced(ids, SAMPLES))
