"""Pseudo-labels: targets and confidences from logits, mixed views, and the weight of each pixel in the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from semiseg.ops.global_batch import global_sum, to_device
from semiseg.ops.mixing import paste

ThresholdMode = Literal["pixel", "image", "batch", "none"]


class PseudoLabels(NamedTuple):
    """N views of unlabeled images with a pseudo-label for each pixel.

    Attributes:
        images: float ``(N, 3, H, W)`` in [0, 1].
        targets: int64 ``(N, H, W)``, class indices, or float ``(N, C, H, W)``, class probabilities.
        confidence: float ``(N, H, W)`` in [0, 1].
        valid: bool ``(N, H, W)``, False on padding.
    """

    images: Tensor
    targets: Tensor
    confidence: Tensor
    valid: Tensor

    @classmethod
    def from_logits(cls, images: Tensor, logits: Tensor, valid: Tensor, temperature: float = 0.0) -> PseudoLabels:
        """Return the pseudo-labels of ``images`` from logits ``(N, C, H, W)``; for ``temperature`` see `soft_label`."""
        _, confidence = pseudo_label(logits)
        return cls(images, soft_label(logits, temperature), confidence, valid)

    @classmethod
    def cat(cls, views: Sequence[PseudoLabels]) -> PseudoLabels:
        """Concatenate views along the batch dimension."""
        return cls(*(torch.cat(tensors) for tensors in zip(*views, strict=True)))

    @property
    def classes(self) -> Tensor:
        """The most probable class of each pixel: int64 ``(N, H, W)``."""
        return self.targets.max(dim=1).indices if self.targets.is_floating_point() else self.targets

    def select(self, index: Tensor | slice) -> PseudoLabels:
        """Return the views at ``index``, int64 ``(M,)`` or a slice."""
        if isinstance(index, Tensor):
            index = to_device(index, self.valid)
        return PseudoLabels(*(tensor[index] for tensor in self))

    def with_images(self, images: Tensor) -> PseudoLabels:
        """Replace the images by other views of the same pixels, such as strongly augmented ones."""
        return self._replace(images=images)

    def mix(self, region: Tensor, partner: PseudoLabels) -> PseudoLabels:
        """Return ``M * self + (1 - M) * partner`` for all four tensors; the region ``M`` is bool ``(N, H, W)``."""
        return PseudoLabels(*(paste(region, own, other) for own, other in zip(self, partner, strict=True)))

    def weights(self, threshold: float, mode: ThresholdMode = "pixel") -> tuple[Tensor, Tensor]:
        """Return each pixel's weight in the loss and the fraction of trusted pixels; see `confidence_weights`."""
        return confidence_weights(self.confidence, self.valid, threshold, mode)


@contextmanager
def labeling() -> Iterator[None]:
    """Disable gradients and autocast's weight cache while a network that also learns in this step predicts labels.

    Autocast caches lower-precision copies of the weights until it ends. Older versions of PyTorch reused copies made
    under ``torch.no_grad()`` in later passes with gradients, so these weights silently received no gradient
    (pytorch#112583, fixed at the end of 2025). EMA teachers do not learn and do not need this. It can also be used as a
    decorator, ``@labeling()``.
    """
    cached = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(cached)


@torch.no_grad()
def pseudo_label(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the predicted class ``argmax p`` and its confidence ``max p``, with ``p = softmax(logits)``.

    Args:
        logits: ``(N, C, H, W)``.

    Returns:
        Labels, int64 ``(N, H, W)``, and confidence, float ``(N, H, W)`` in [1/C, 1].
    """
    confidence, labels = logits.float().softmax(dim=1).max(dim=1)
    return labels, confidence


@torch.no_grad()
def soft_label(logits: Tensor, temperature: float) -> Tensor:
    """Return the target for the student: the predicted class, or class probabilities.

    Temperature 0 gives ``argmax p``, as in most methods. Otherwise the target is ``softmax(logits / T)``: ``p`` itself
    for T = 1, sharpened ``p_k^(1/T) / sum`` below (MixMatch, Berthelot et al. 2019, eq. 7; PseudoSeg: 0.5). A thin
    object predicted with probability 0.4 is lost in ``argmax p`` and kept in ``p``.

    Args:
        logits: ``(N, C, H, W)``.
        temperature: T, in [0, 1].

    Returns:
        int64 ``(N, H, W)`` if T is 0, else float ``(N, C, H, W)`` that sums to 1 over C.
    """
    if temperature == 0:
        return logits.max(dim=1).indices  # equals argmax, but several times as fast on a CPU
    logits = logits.float()
    # Subtracting the maximum first keeps the quotient finite for small T.
    return ((logits - logits.amax(dim=1, keepdim=True)) / temperature).softmax(dim=1)


@torch.no_grad()
def entropy(logits: Tensor) -> Tensor:
    """Return the entropy ``-sum_c p_c log p_c`` of ``p = softmax(logits)`` at each pixel.

    Args:
        logits: ``(N, C, H, W)``.

    Returns:
        float ``(N, H, W)``, in [0, log C].
    """
    log_p = logits.float().log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


@torch.no_grad()
def percentile(values: Tensor, counted: Tensor, percent: float) -> Tensor:
    """Return the percentile of the values that count, a scalar; NaN, which no value reaches, if none counts.

    Args:
        values: float, any shape.
        counted: bool of that shape.
        percent: In [0, 100].
    """
    return torch.where(counted, values, torch.nan).nanquantile(percent / 100)


@torch.no_grad()
def certainty(logits: Tensor, valid: Tensor) -> Tensor:
    """Return the certainty of each image: the mean over its pixels of ``max p (1 - H(p) / log C)``.

    ``p = softmax(logits)`` and ``H`` is the entropy. AugSeg (Zhao et al. 2023, eq. 5) selects hard images by it.

    Args:
        logits: ``(N, C, H, W)``. With one class every image is certain.
        valid: bool ``(N, H, W)``, False on padding, which does not count.

    Returns:
        float ``(N,)`` in [0, 1]; 0 for an image of padding only.
    """
    log_p = logits.float().log_softmax(dim=1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(dim=1) / math.log(max(logits.shape[1], 2))
    certain = p.amax(dim=1) * (1 - entropy) * valid
    return (certain.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)).clamp(0, 1)


@torch.no_grad()
def confidence_weights(
    confidence: Tensor, valid: Tensor, threshold: float, mode: ThresholdMode = "pixel"
) -> tuple[Tensor, Tensor]:
    """Return each pixel's weight in the unsupervised loss and the fraction of trusted pixels.

    ========  =======================================================  =====================================
    mode      weight of pixel j of image i                             source
    ========  =======================================================  =====================================
    pixel     1 where ``c_ij >= threshold``, else 0                    FixMatch; Dual Teacher's paper
    image     fraction of image i's pixels with ``c >= threshold``     Dual Teacher's code, CutMix shifts
    batch     the same fraction over the whole batch                   ClassMix; DT's code, ClassMix shifts
    none      1                                                        CPS
    ========  =======================================================  =====================================

    Counts are summed over the processes (`global_sum`), so the result depends on the current shard.

    Args:
        confidence: Confidence of the views after mixing, float ``(N, H, W)`` in [0, 1].
        valid: bool ``(N, H, W)``, False on padding, which is neither trusted nor counted.
        threshold: In [0, 1].
        mode: See the table.

    Returns:
        Weights, float ``(N, H, W)`` in [0, 1], and a scalar: trusted pixels / valid pixels.
    """
    trusted = (confidence >= threshold) & valid
    trusted_fraction = global_sum(trusted.sum()) / global_sum(valid.sum()).clamp(min=1)
    if mode == "pixel":
        weights = trusted.float()
    elif mode == "image":
        per_image = trusted.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)
        weights = per_image[:, None, None].expand_as(confidence)
    elif mode == "batch":
        weights = trusted_fraction.expand_as(confidence)
    elif mode == "none":
        weights = torch.ones_like(confidence)
    else:
        raise ValueError(f"unknown threshold mode {mode!r}: choose pixel, image, batch or none")
    return weights, trusted_fraction
