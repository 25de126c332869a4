"""Sample pictures that a run saves at every validation, always of the same images; the report shows them.

- ``samples/STEP_NAME.png``: predictions of every network for a few val images.
- ``samples/val/GROUP-N/``: the best, worst and random predictions of the best checkpoint.
- ``samples/pseudo-labels/N_NAME/STEP_NETWORK.png``: pseudo-labels of a few unlabeled images at each validation.

The choice of images depends only on the seed and the lists, so a resumed run writes the same pictures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semiseg.config import TrainConfig
from semiseg.data.dataset import SegmentationDataset, read_sample
from semiseg.data.preview_selection import evenly_spaced, select_distinct
from semiseg.data.splits.dataset_split import Split
from semiseg.data.stream.image_reader import ImageReader
from semiseg.data.stream.unlabeled_pool import make_pool
from semiseg.errors import UserError
from semiseg.inference.evaluation import Evaluation
from semiseg.inference.predictor import Predictor
from semiseg.methods import Method, Progress
from semiseg.ops.tag_loss import mask_absent
from semiseg.seeding import generator
from semiseg.training.checkpoint import write_atomically
from semiseg.visualization import prediction_panels as marks
from semiseg.visualization.mask_pictures import (
    colorize,
    resize_to_width,
    sample_picture,
    save_picture,
    to_picture,
)

SAMPLES = 4  # val images with predictions of every network
UNLABELED = 3  # images with pseudo-labels
NAME_LENGTH = 100  # characters of an image's name; file systems allow 255 bytes
WIDTH = 320  # of a picture, in pixels
SMALL = 200  # width of pseudo-labels, of which a run has many
GROUPS = ("best", "worst", "random")


class Samples:
    """Writes pictures of the predictions of a method's networks to ``folder``."""

    def __init__(
        self, folder: Path, dataset: SegmentationDataset, split: Split, config: TrainConfig, device: torch.device
    ) -> None:
        self.folder, self.dataset, self.split, self.config, self.device = folder, dataset, split, config, device
        self.pool = make_pool(ImageReader(dataset), split, config.seed)
        self.previewed: Sequence[str] = ()

    def write(self, method: Method, progress: Progress, best: Evaluation | None) -> list[Path]:
        """Write the pictures of one validation.

        Args:
            method: The method with its networks.
            progress: The step before the validation.
            best: The evaluation, if it is the best so far.

        Returns:
            The files ``STEP_NAME.png``.
        """
        names = {"classes": list(self.dataset.classes), "palette": [list(color) for color in self.dataset.palette]}
        self.folder.mkdir(exist_ok=True)  # a copy of a run may lack its empty directories
        write_atomically(self.folder / "classes.json", json.dumps(names).encode())
        files = self.write_networks(method, progress.step + 1)
        self.write_pseudo_labels(method, progress)
        if best:
            values = best.by_image[method.default_network].tolist()
            self.write_predictions(method, dict(zip(best.ids, values, strict=True)))
        return files

    def write_networks(self, method: Method, step: int) -> list[Path]:
        """Write image, predictions of all networks and ground truth of a few val images; return the files."""
        files = []
        ids = evenly_spaced(self.split.val, SAMPLES)
        for id, file_name in zip(ids, file_names(ids), strict=True):
            image = self.dataset.read_image(id)
            masks = {name: self._predictor(network)(image).mask for name, network in method.predictors.items()}
            picture = sample_picture(image, masks | {"ground truth": self.dataset.read_mask(id)}, self.dataset.palette)
            files.append(self.folder / f"{step:07d}_{file_name}.png")
            picture.save(files[-1])
        return files

    def write_predictions(self, method: Method, miou: Mapping[str, float]) -> None:
        """Write the default network's predictions for the best, the worst and a few random val images."""
        predictor = self._predictor(method.predictors[method.default_network])
        for group, ids in select_images(miou, self.config.seed).items():
            for number, id in enumerate(ids, 1):
                sample = read_sample(self.dataset, id)
                image, truth = sample.image, sample.mask
                assert truth is not None
                mask, confidence = (part.cpu() for part in predictor(image))
                pictures = {
                    "truth": colorize(truth, self.dataset.palette),
                    "prediction": colorize(mask, self.dataset.palette),
                    "wrong": marks.error_picture(image, mask, truth),
                    "confidence": marks.confidence_picture(confidence),
                }
                folder = self.folder / "val" / f"{group}-{number}"
                about = {"id": id, "miou": f"{miou[id]:.1f}"}
                photo = resize_to_width(to_picture(image), WIDTH, smooth=True)
                save_picture(photo, folder / "image.png", about)
                for name, picture in pictures.items():
                    save_picture(resize_to_width(picture, WIDTH), folder / f"{name}.png", about)

    def write_pseudo_labels(self, method: Method, progress: Progress) -> None:
        """Write the current pseudo-labels of a few unlabeled images; pixels below the threshold are faded."""
        name = method.labeler(progress)
        if name is None:
            return
        predictor = self._predictor(method.predictors[name])
        with suppress(UserError):
            self.previewed = self.previewed or self.pool.preview(UNLABELED)
        for number, id in enumerate(self.previewed, 1):
            try:
                image = self.pool.read(id).pixels
            except UserError:  # training reports the image when it samples it
                continue
            confidence, mask = self._without_absent(predictor.probabilities(image), method, id).max(dim=0)
            trusted = confidence >= threshold(method.options)
            folder = self.folder / "pseudo-labels" / f"{number}_{Path(id).name[:NAME_LENGTH]}"
            save_picture(resize_to_width(to_picture(image), SMALL, smooth=True), folder / "image.png", {"id": id})
            picture = resize_to_width(marks.trusted_labels(mask, trusted, self.dataset.palette), SMALL)
            share = f"{100 * float(trusted.float().mean()):.1f}"
            save_picture(picture, folder / f"{progress.step + 1:07d}_{name}.png", {"trusted": share})

    def _predictor(self, network: torch.nn.Module) -> Predictor:
        return Predictor(network, image_scale=self.config.image_scale, device=self.device)

    def _without_absent(self, probabilities: Tensor, method: Method, id: str) -> Tensor:
        """Return the probabilities, ``(C, H, W)``, without the classes that the image's tags exclude."""
        tags = self.dataset.tags(id)
        if tags is None or not hasattr(method.options, "tag_weight"):
            return probabilities
        known = torch.tensor([tags], dtype=torch.int8, device=probabilities.device)
        return mask_absent(probabilities.log()[None], known).softmax(dim=1)[0]


def file_names(ids: Sequence[str]) -> list[str]:
    """Return a different file name for each id, without suffix: folders become part of the name."""
    names = [id.replace("/", "_")[:NAME_LENGTH] for id in ids]
    return names if len(set(names)) == len(names) else [f"{number}_{name}" for number, name in enumerate(names, 1)]


def threshold(options: Any) -> float:
    """Return the lowest confidence of trusted pseudo-labels; 0 if the method has no threshold."""
    return 0.0 if getattr(options, "threshold_mode", "pixel") == "none" else getattr(options, "threshold", 0.0)


def select_images(miou: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Return the ids of the best, the worst and a few random images.

    Images with an undefined mIoU (NaN) are left out. Each group has no neighbors in the list, which are often frames
    of the same video.

    Args:
        miou: mIoU in percent by image, in the order of the list.
        seed: The run's seed, which determines the random images.
    """
    ids = list(miou)
    ranked = sorted((id for id in ids if not math.isnan(miou[id])), key=lambda id: -miou[id])
    order = torch.randperm(len(ids), generator=generator(seed, "random predictions")).tolist()
    rankings = (ranked, ranked[::-1], [ids[index] for index in order if not math.isnan(miou[ids[index]])])
    return {group: select_distinct(ranking, ids) for group, ranking in zip(GROUPS, rankings, strict=True)}
