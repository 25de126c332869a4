"""Rate unlabeled images with a trained model: uncertainty, disagreement and features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from semiseg.tools.suggestion.candidates import note

Array = NDArray[np.float32]
LONGEST = 1024  # pixels of the longer side; means over the pixels need no more


@dataclass(frozen=True)
class Measurements:
    """Measurements of the N images that could be read.

    Attributes:
        ids: The images.
        uncertainty: ``(N,)`` in [0, 1]: entropy of the student's probabilities over log C, mean over the pixels.
        disagreement: ``(N,)`` in [0, 1]: Jensen-Shannon divergence of the networks over its maximum, mean over the
            pixels.
        features: ``(N, D)``, normalized: the student's deepest features, mean over the pixels.
        shares: ``(N, C)``: share of the pixels that the student assigns to each class.
    """

    ids: tuple[str, ...]
    uncertainty: Array
    disagreement: Array
    features: Array
    shares: Array


def measure(
    model: Model, dataset: SegmentationDataset, ids: Sequence[str], progress: Callable[[int, int], None] | None = None
) -> Measurements:
    """Rate every image without augmentation; each is read once.

    Args:
        model: The student and the other networks.
        dataset: The data set. Images that cannot be read are reported and left out.
        ids: The images to rate.
        progress: Called with the number of images done and the number of all images.
    """
    student, others = rating_networks(model)
    rows: list[tuple[float, float, Array, Array]] = []
    read = []
    for done, (id, image) in enumerate(_read_images(dataset, ids), 1):
        if image is not None:
            read.append(id)
            rows.append(_measure_one(student, others, _network_input(model, image)))
        if progress:
            progress(done, len(ids))
    uncertainty, disagreement, features, shares = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Measurements(
        tuple(read),
        np.array(uncertainty, np.float32),
        np.array(disagreement, np.float32),
        np.array(features, np.float32).reshape(len(rows), -1 if rows else 0),
        np.array(shares, np.float32).reshape(len(rows), len(model.classes)),
    )


@torch.inference_mode()
def student_features(model: Model, dataset: SegmentationDataset, ids: Sequence[str]) -> Array:
    """Return the student's features, normalized ``(N, D)``, of the images that can be read."""
    student, _ = rating_networks(model)
    found = []
    for _, image in _read_images(dataset, ids):
        if image is not None:
            with evaluation_mode([student]):
                found.append(_mean_feature(student.encode(_network_input(model, image))))
    return np.stack(found) if found else np.zeros((0, 0), np.float32)


def rating_networks(model: Model) -> tuple[SegmentationNetwork, list[nn.Module]]:
    """Return the student, and the networks whose disagreement is measured.

    These are the teachers if there are at least two, else all networks. A single network is compared with its
    prediction for the mirrored image.
    """
    student = model.networks[model.network]
    if not isinstance(student, SegmentationNetwork):
        raise UserError("its network has no encoder", path=model.path, fix="choose a run of another method")
    teachers = [network for name, network in model.networks.items() if name.startswith("teacher")]
    if len(teachers) > 1:
        return student, teachers
    return student, [*model.networks.values()] if len(model.networks) > 1 else [student, Mirrored(student)]


class Mirrored(nn.Module):
    """A network that receives mirrored images and mirrors its output back."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, C, H, W)`` for images ``(N, 3, H, W)``."""
        logits: Tensor = self.network(images.flip(-1)).flip(-1)
        return logits


def entropy(p: Tensor) -> Tensor:
    """Return ``-sum_k p_k log p_k``, float ``(N, H, W)`` in nats, of probabilities ``(N, C, H, W)``."""
    return torch.special.entr(p).sum(dim=1)


def jensen_shannon(p: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of the probabilities of M networks (Lin 1991, eq. 5.1) over its maximum.

    ``H(mean_m p_m) - mean_m H(p_m)``, the mutual information of "BALD" (Houlsby et al. 2011), is 0 if all networks
    agree and ``log min(M, C)`` if each is certain of another class.

    Args:
        p: Float ``(M, N, C, H, W)``, M at least 2.

    Returns:
        Float ``(N, H, W)`` in [0, 1].
    """
    divergence = entropy(p.mean(dim=0)) - torch.stack([entropy(one) for one in p]).mean(dim=0)
    return (divergence / math.log(max(2, min(len(p), p.shape[2])))).clamp(0, 1)


@torch.inference_mode()
def _measure_one(
    student: SegmentationNetwork, others: Sequence[nn.Module], images: Tensor
) -> tuple[float, float, Array, Array]:
    with evaluation_mode([student, *others]):
        encoded = student.encode(images)
        p = student.resize(student.decode(encoded), images.shape[-2:]).float().softmax(dim=1)
        all_p = torch.stack([p if other is student else other(images).float().softmax(dim=1) for other in others])
    classes = p.shape[1]
    shares = torch.bincount(p.argmax(dim=1).flatten(), minlength=classes) / p[0, 0].numel()
    uncertainty = float(entropy(p).mean() / math.log(max(2, classes)))
    return uncertainty, float(jensen_shannon(all_p).mean()), _mean_feature(encoded), shares.float().cpu().numpy()


def _mean_feature(encoded: Sequence[Tensor]) -> Array:
    """Return the deepest features, mean over the pixels, normalized."""
    feature = encoded[-1].float().mean(dim=(0, 2, 3))
    normalized: Array = (feature / feature.norm().clamp(min=1e-12)).cpu().numpy()
    return normalized


def _network_input(model: Model, image: Tensor) -> Tensor:
    """Return the image as network input, at most ``LONGEST`` pixels long."""
    images = model.predictor.network_input(image)
    factor = LONGEST / max(images.shape[-2:])
    return interpolate(images, scale_factor=factor, mode="bilinear", antialias=True) if factor < 1 else images


def _read_images(dataset: SegmentationDataset, ids: Sequence[str]) -> Iterator[tuple[str, Tensor | None]]:
    """Yield each id with its image; report images that cannot be read, and yield None for them."""

    def read(id: str) -> tuple[str, Tensor | UserError]:
        try:
            return id, dataset.read_image(id)
        except UserError as error:
            return id, error

    for id, image in read_ahead(read, ids):
        if isinstance(image, UserError):
            note(f"Leaving out {image}")
            yield id, None
        else:
            yield id, image
