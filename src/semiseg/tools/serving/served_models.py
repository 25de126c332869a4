"""The networks that are served, by label, and what they say of an image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from torch import Tensor

from semiseg.data import open_dataset
from semiseg.data.dataset import Color, SegmentationDataset
from semiseg.data.preview_selection import evenly_spaced
from semiseg.errors import UserError, lookup
from semiseg.inference.predictor import Predictor
from semiseg.tools.models.trained_model import Model, load
from semiseg.training.run_directory import RunDirectory

SAMPLES = 12


@dataclass(frozen=True)
class Answer:
    """What a network says: ``mask`` uint8 ``(H, W)``, ``confidence`` float ``(H, W)`` in [0, 1], both on the CPU."""

    label: str
    mask: Tensor
    confidence: Tensor
    classes: tuple[str, ...]
    palette: tuple[Color, ...]

    def shares(self) -> dict[str, float]:
        """Return the share of the image's pixels that each class has, in [0, 1]."""
        counts = np.bincount(self.mask.numpy().ravel(), minlength=len(self.classes))
        return {name: float(count / self.mask.numel()) for name, count in zip(self.classes, counts, strict=True)}


class Networks:
    """Every network of some runs.

    Attributes:
        predictors: by label: ``NETWORK`` of a single run, ``RUN/NETWORK`` of several.
        defaults: the labels of the runs' default networks, those that are asked where none is named.
        samples: images to try, by name, of the first run's data: test, or else val; empty where it cannot be opened.

    Raises:
        UserError: no such run or checkpoint.
    """

    def __init__(self, runs: Sequence[str], checkpoint: str = "best", accelerator: str = "auto") -> None:
        self.predictors: dict[str, tuple[Model, Predictor]] = {}
        self.defaults: list[str] = []
        self._lock = Lock()  # requests come in threads of their own; one image at a time bounds memory
        models = [load(run, checkpoint=checkpoint, accelerator=accelerator) for run in runs]
        prefixes = unlike([Path(run).resolve().name for run in runs])
        for prefix, model in zip(prefixes, models, strict=True):
            for name in model.choices:
                label = name if len(models) == 1 else f"{prefix}/{name}"
                self.predictors[label] = (model, model.make_predictor(name))
                if name == model.network:
                    self.defaults.append(label)
        self._data, self.samples = find_samples(models[0])

    def read_sample(self, name: str) -> Tensor:
        """Read a sample as uint8 ``(3, H, W)``; raises UserError where there is none of that name."""
        lookup("sample", name, dict.fromkeys(self.samples))
        assert self._data is not None
        return self._data.read_image(name)

    def pixels(self, height: int, width: int) -> int:
        """Return how many pixels an image of this size costs the network that needs most."""
        return max(predictor.pixels(height, width) for _, predictor in self.predictors.values())

    def segment(self, image: Tensor, labels: Iterable[str] = ()) -> list[Answer]:
        """Ask the networks of these labels, or the default ones, about an image, uint8 ``(3, H, W)``.

        Raises:
            UserError: there is no such label.
        """
        chosen = {label: lookup("network", label, self.predictors) for label in labels or self.defaults}
        answers = []
        for label, (model, predictor) in chosen.items():
            with self._lock:
                mask, confidence = predictor(image)
            answers.append(Answer(label, mask.cpu(), confidence.cpu(), model.classes, model.palette))
        return answers


def unlike(names: Sequence[str]) -> list[str]:
    """Return the names, those that occur twice numbered."""
    return [name if names.count(name) == 1 else f"{name}-{names[:i].count(name) + 1}" for i, name in enumerate(names)]


def find_samples(model: Model) -> tuple[SegmentationDataset | None, tuple[str, ...]]:
    """Return the model's data and a few of its images, spread over a list that it did not learn from."""
    try:
        dataset = open_dataset(model.config.data)
        if model.run is None:
            ids = dataset.split("test") or dataset.split("val") or ()
        else:
            lists = RunDirectory(model.run).read_split(dataset)
            ids = lists.test or lists.val
    except UserError:  # it was moved, or never was on this machine
        return None, ()
    return dataset, tuple(evenly_spaced(ids, SAMPLES))
