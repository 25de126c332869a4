"""What a trained model thinks of an image that nobody has annotated: how sure it is, and what it looks like to it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from semiseg.data.dataset import SegmentationDataset, read_ahead
from semiseg.errors import UserError
from semiseg.inference.predictor import evaluation_mode
from semiseg.networks.segmentation_network import SegmentationNetwork
from semiseg.tools.models.trained_model import Model

Array = NDArray[np.float32]
LONGEST = 1024  # pixels of the longer side: a mean over a large photograph's pixels is as good over fewer


@dataclass(frozen=True)
class Measures:
    """Of each of N images that could be read, in the order of ``ids``.

    Attributes:
        ids: the images.
        uncertainty: ``(N,)`` in [0, 1]: entropy of the student's probabilities over log C, mean over the pixels.
        disagreement: ``(N,)`` in [0, 1]: Jensen-Shannon divergence of the networks asked, over its largest value, mean
            over the pixels.
        features: ``(N, D)``, of length 1: the student's deepest features, mean over the pixels.
        shares: ``(N, C)``: the share of the pixels that the student gives to each class.
    """

    ids: tuple[str, ...]
    uncertainty: Array
    disagreement: Array
    features: Array
    shares: Array


def measure(
    model: Model, dataset: SegmentationDataset, ids: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> Measures:
    """Ask the networks about every image, each read once and seen as in training, unaugmented.

    Args:
        model: the student and its companions.
        dataset: the images; those that cannot be read are told and left out.
        ids: those to measure.
        progress: told how many are done, of how many.
    """
    student, others = members(model)
    rows: list[tuple[float, float, Array, Array]] = []
    read = []
    for done, (id, image) in enumerate(read_ahead(lambda id: (id, _read(dataset, id)), ids), 1):
        if isinstance(image, UserError):
            tell(f"left out: {image}")
        else:
            read.append(id)
            rows.append(_measure_one(student, others, _seen(model, image)))
        if progress:
            progress(done, len(ids))
    uncertainty, disagreement, features, shares = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Measures(
        tuple(read),
        np.array(uncertainty, np.float32),
        np.array(disagreement, np.float32),
        np.array(features, np.float32).reshape(len(rows), -1 if rows else 0),
        np.array(shares, np.float32).reshape(len(rows), len(model.classes)),
    )


@torch.inference_mode()
def features_of(model: Model, dataset: SegmentationDataset, ids: Sequence[str]) -> Array:
    """Return the student's features alone, ``(N, D)`` of length 1, of the images that can be read."""
    student, _ = members(model)
    found = []
    for image in read_ahead(lambda id: _read(dataset, id), ids):
        if isinstance(image, UserError):
            tell(f"left out: {image}")
            continue
        with evaluation_mode([student]):
            found.append(_feature(student.encode(_seen(model, image))))
    return np.stack(found) if found else np.zeros((0, 0), np.float32)


def tell(line: str) -> None:
    """Say something that is no result."""
    print(line, file=sys.stderr)


def _seen(model: Model, image: Tensor) -> Tensor:
    """Return an image as the networks see it, but no larger than needed for a mean over its pixels."""
    images = model.predictor.network_input(image)
    factor = LONGEST / max(images.shape[-2:])
    return interpolate(images, scale_factor=factor, mode="bilinear", antialias=True) if factor < 1 else images


def members(model: Model) -> tuple[SegmentationNetwork, list[nn.Module]]:
    """Return the network judged, and those whose disagreement counts.

    These are the teachers where there are two or more; otherwise all networks; where there is one alone, it and what
    it makes of the image in a mirror.
    """
    student = model.networks[model.network]
    if not isinstance(student, SegmentationNetwork):
        raise UserError(f"{model.path}: its network has no encoder to compare images by: take a run of another method")
    teachers = [network for name, network in model.networks.items() if name.startswith("teacher")]
    if len(teachers) > 1:
        return student, teachers
    return student, [*model.networks.values()] if len(model.networks) > 1 else [student, Mirrored(student)]


class Mirrored(nn.Module):
    """A network that sees every image mirrored, and whose answer is mirrored back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, C, H, W)`` for images ``(N, 3, H, W)``."""
        logits: Tensor = self.network(images.flip(-1)).flip(-1)
        return logits


@torch.inference_mode()
def _measure_one(
    student: SegmentationNetwork, others: Sequence[nn.Module], images: Tensor
) -> tuple[float, float, Array, Array]:
    with evaluation_mode([student, *others]):
        encoded = student.encode(images)
        p = student.resize(student.decode(encoded), images.shape[-2:]).float().softmax(dim=1)
        several = torch.stack([p if other is student else other(images).float().softmax(dim=1) for other in others])
    classes = p.shape[1]
    shares = torch.bincount(p.argmax(dim=1).flatten(), minlength=classes) / p[0, 0].numel()
    uncertainty = entropy(p).mean() / math.log(max(2, classes))
    return (
        float(uncertainty),
        float(jensen_shannon(several).mean()),
        _feature(encoded),
        shares.float().cpu().numpy(),
    )


def _feature(encoded: Sequence[Tensor]) -> Array:
    """Return the deepest features, mean over the pixels, of length 1."""
    feature = encoded[-1].float().mean(dim=(0, 2, 3))
    normalized: Array = (feature / feature.norm().clamp(min=1e-12)).cpu().numpy()
    return normalized


def entropy(p: Tensor) -> Tensor:
    """Return ``-sum_k p_k log p_k``, float ``(N, H, W)`` in nats, of probabilities ``(N, C, H, W)``."""
    return torch.special.entr(p).sum(dim=1)


def jensen_shannon(several: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of M networks' probabilities (Lin 1991, eq. 5.1) over its largest value.

    ``H(mean_m p_m) - mean_m H(p_m)``, the mutual information of "bald" (Houlsby et al. 2011), is 0 where all agree
    and ``log min(M, C)`` where each is sure of another class.

    Args:
        several: float ``(M, N, C, H, W)``, M at least 2.

    Returns:
        float ``(N, H, W)`` in [0, 1].
    """
    divergence = entropy(several.mean(dim=0)) - torch.stack([entropy(p) for p in several]).mean(dim=0)
    return (divergence / math.log(max(2, min(len(several), several.shape[2])))).clamp(0, 1)


def _read(dataset: SegmentationDataset, id: str) -> Tensor | UserError:
    try:
        return dataset.read_image(id)
    except UserError as error:
        return error
