"""Evaluate all networks of a method in one pass over the images, and measure how much they agree."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from semiseg.data.dataset import Sample, SegmentationDataset, read_ahead, read_sample
from semiseg.data.preview_selection import evenly_spaced
from semiseg.errors import UserError
from semiseg.inference.boundary_iou import BoundaryIoU
from semiseg.inference.metrics import ConfusionMatrix
from semiseg.inference.predictor import Predictor

TEACHERS_AVERAGE = "teachers-average"
STUDENT = "student"


@dataclass
class Evaluation:
    """Exact counts of one evaluation.

    Attributes:
        matrices: One confusion matrix per network, and ``teachers-average`` if there are several teachers.
        disagreeing: For each network except the student, an int64 scalar: the number of pixels on which it predicts
            another class than the student.
        pixels: An int64 scalar: the number of all pixels, including ignored ones (disagreement needs no labels).
        ids: The images evaluated by all ranks together.
        by_image: For each network, float32 ``(len(ids),)``, see `image_miou`.
        boundaries: The boundary IoU of each network, if asked for. `reduce` does not add it.
    """

    matrices: dict[str, ConfusionMatrix]
    disagreeing: dict[str, Tensor]
    pixels: Tensor
    ids: Sequence[str]
    by_image: dict[str, Tensor]
    boundaries: dict[str, BoundaryIoU] = field(default_factory=dict)

    @property
    def disagreement(self) -> dict[str, float]:
        """Percentage of pixels on which each network and the student disagree."""
        pixels = max(int(self.pixels), 1)
        return {name: 100 * int(count) / pixels for name, count in self.disagreeing.items()}

    def reduce(self, add: Callable[[Tensor], Tensor]) -> None:
        """Replace every count by ``add(count)``, the sum over ranks; every rank must call this."""
        for matrix in self.matrices.values():
            matrix.counts = add(matrix.counts)
        self.disagreeing = {name: add(count) for name, count in self.disagreeing.items()}
        self.pixels = add(self.pixels)
        self.by_image = {name: add(values) for name, values in self.by_image.items()}  # zero on all ranks but one


def evaluate_networks(
    networks: Mapping[str, nn.Module],
    dataset: SegmentationDataset,
    ids: Sequence[str],
    *,
    device: torch.device | str,
    image_scale: float = 1.0,
    mode: str = "whole",
    crop_size: int | None = None,
    limit: int | None = None,
    boundaries: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> Evaluation:
    """Compare the predictions of every network with the masks at their own resolution; read each image once.

    Args:
        networks: The networks by name. The others are compared with ``student``; ``teacher1``, ``teacher2``, ... are
            also evaluated together, by averaging their probabilities.
        dataset: The images and masks.
        ids: The images to evaluate; each needs a mask.
        device: The device of the networks.
        image_scale: See `Predictor`, also for ``mode`` and ``crop_size``.
        mode: ``whole`` or ``slide``.
        crop_size: The window of ``slide``.
        limit: Evaluate only this many images, spread evenly over the list (neighbors are often alike).
        boundaries: Also compute the boundary IoU, which takes about 0.1 s per megapixel and network.
        rank: The rank of this process; it evaluates every ``world_size``-th image, so that each is counted once.
        world_size: The number of processes; sum their counts with `Evaluation.reduce`.

    Raises:
        UserError: An image has no mask, or a mask of another size.
    """
    predictors = {name: Predictor(network, mode, crop_size, image_scale, device) for name, network in networks.items()}
    teachers = [name for name in networks if re.fullmatch(r"teacher\d+", name)]
    names = [*networks, TEACHERS_AVERAGE] if len(teachers) > 1 else [*networks]
    others = [name for name in networks if name != STUDENT] if STUDENT in networks else []
    ids = evenly_spaced(ids, limit)
    result = Evaluation(
        {name: ConfusionMatrix(len(dataset.classes), device) for name in names},
        {name: torch.zeros((), dtype=torch.int64, device=device) for name in others},
        torch.zeros((), dtype=torch.int64, device=device),
        ids,
        {name: torch.zeros(len(ids), device=device) for name in names},
        {name: BoundaryIoU(len(dataset.classes)) for name in names if boundaries},
    )
    read = read_ahead(lambda id: _labeled(read_sample(dataset, id)), ids[rank::world_size])
    for index, (image, mask) in enumerate(read):
        predictions = _predict(predictors, teachers, image)
        target = mask.to(device)
        for name, prediction in predictions.items():
            before = result.matrices[name].counts.clone()
            result.matrices[name].update(prediction, target)
            if boundaries:
                result.boundaries[name].update(prediction, target)
            result.by_image[name][rank + index * world_size] = image_miou(result.matrices[name].counts - before)
        for name in others:
            result.disagreeing[name] += (predictions[name] != predictions[STUDENT]).sum()
        result.pixels += mask.numel()
    return result


def image_miou(counts: Tensor) -> Tensor:
    """Return the mean IoU of one image in percent, over the classes in its mask; NaN for an empty mask.

    Classes that occur only in the prediction are not averaged, because one wrong pixel would add a class with an IoU
    of 0. They still lower the IoU of the classes that they replace.

    Args:
        counts: int64 ``(C, C)``; rows are the truth.

    Returns:
        A float32 scalar on the device of the counts.
    """
    hits, truth = counts.diagonal(), counts.sum(dim=1)
    iou = hits / (counts.sum(dim=0) + truth - hits).clamp(min=1)
    return 100 * iou.sum() / (truth > 0).sum()


@torch.inference_mode()
def _predict(predictors: Mapping[str, Predictor], teachers: Sequence[str], image: Tensor) -> dict[str, Tensor]:
    """Return the classes int64 ``(H, W)`` by network, and for the average of several teachers."""
    predictions: dict[str, Tensor] = {}
    together = teachers if len(teachers) > 1 else ()
    average: Tensor | None = None
    for name, predictor in predictors.items():
        scores = predictor.probabilities(image) if name in together else predictor.scores(image)
        predictions[name] = scores.max(dim=0).indices  # equals argmax, but several times faster on a CPU
        if name in together:
            average = scores if average is None else average.add_(scores)
    if average is not None:
        predictions[TEACHERS_AVERAGE] = average.max(dim=0).indices
    return predictions


@torch.no_grad()
def parameter_distance(teacher: nn.Module, student: nn.Module) -> float:
    """Return the relative distance ||theta_t - theta_s|| / ||theta_s|| of the parameters, without buffers.

    Raises:
        ValueError: The networks have different architectures.
    """
    mine, theirs = dict(student.named_parameters()), dict(teacher.named_parameters())
    if {name: value.shape for name, value in mine.items()} != {name: value.shape for name, value in theirs.items()}:
        raise ValueError("the networks must have the same architecture")
    distances = [torch.linalg.vector_norm((theirs[name] - value).float()) for name, value in mine.items()]
    norms = [torch.linalg.vector_norm(value.float()) for value in mine.values()]
    distance, norm = (float(torch.linalg.vector_norm(torch.stack(parts))) for parts in (distances, norms))
    return distance / norm if norm else 0.0


def _labeled(sample: Sample) -> tuple[Tensor, Tensor]:
    if sample.mask is None:
        raise UserError(f"image '{sample.id}' has no mask and cannot be evaluated", fix="remove it from the list")
    return sample.image, sample.mask
