"""PseudoSeg: Zou, Zhang, Zhang, Li, Bian, Huang, Pfister, "PseudoSeg: Designing Pseudo Labels for Semantic
Segmentation", ICLR 2021 (https://arxiv.org/abs/2010.09713).

One network labels the weak views for its own strong views. A second branch helps: it localizes classes from image-level
labels alone, by class activation maps that self-attention refines (SGC). Both branches make different mistakes, so the
pseudo-label is their calibrated mean, soft and without a threshold::

    M_c = relu(w_c . F) / max                       CAM of each class c present; F: deepest features, w: classifier
    R   = A M + M,   A = softmax(q k^T / sqrt(d))                              self-attention between cells
    z_1 = f(x_w),    z_2 = BN(conv1x1(R))
    v   = [z_1; z_2] / sqrt(mean([z_1; z_2]^2))                                one root mean square for both
    P   = (softmax(v_1) + softmax(v_2)) / 2,   q = P^(1/T) / sum
    L   = CE(f(x_l), y) + CE(z_2(x_l), y) + BCE(cls(x_l), classes in y)
          + lambda 1/|V| sum_V CE(f(s(x_u)), q)                                V: neither padding nor cut out
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, UnlabeledOptions, as_float
from semiseg.ops.features import decode, encode, feature_channels, to_cells, to_pixels
from semiseg.ops.global_batch import global_mean_denominator, global_sum
from semiseg.ops.losses import IGNORE, weighted_cross_entropy
from semiseg.ops.photometric import color_jitter, cutout
from semiseg.ops.pseudo_labels import confidence_weights, labeling, soft_label
from semiseg.option_ranges import AT_LEAST_ONE, FRACTION, Range


@dataclass(frozen=True)
class PseudoSegOptions(UnlabeledOptions):
    """Options of PseudoSeg; each default with its source."""

    label_temperature: Annotated[float, FRACTION] = 0.5
    """T, temperature that sharpens pseudo-labels (paper: 0.5). 1: as fused; 0: the predicted class."""
    threshold: Annotated[float, FRACTION] = 0.0
    """Smallest confidence of a trusted pseudo-label (paper: 0, all are trusted)."""
    background: int = -1
    """Background class, which has no map and is present where no other class is (paper, VOC: 0). -1: none."""
    known_share: Annotated[float, FRACTION] = 0.75
    """Labeled fraction of a crop from which other classes count as absent (our default; authors' code: 0)."""
    color_strength: Annotated[float, FRACTION] = 0.5
    """Strength of color jitter in the strong view (authors' code: 0.5)."""
    cutout: Annotated[float, FRACTION] = 0.195
    """Side of the rectangle cut out of the strong view, relative to the crop's (authors' code: 100 of 513 pixels)."""
    attention_channels: Annotated[int, AT_LEAST_ONE] = 128
    """d, channels of query and key (authors' code: 128)."""
    attention_side: Annotated[int, Range(2)] = 33
    """Largest side of the attention's grid, in cells (authors' code: 33, a crop of 513 at stride 16)."""


class PseudoSeg(Method):
    """One network and a second branch, which is used in training only; see the module's docstring.

    Differences from the authors' code:

    - Padding is left out of pooling, maps, attention and the root mean square.
    - A labeled crop with many unknown pixels does not determine which classes are absent.
    """

    Options = PseudoSegOptions
    summary = "the decoder and refined class activation maps label together"
    papers: ClassVar = {"Zou et al. 2021": "https://arxiv.org/abs/2010.09713"}

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: PseudoSegOptions) -> None:
        super().__init__(build, classes, options)
        self.sgc = SelfAttentionGradCAM(feature_channels(self.student), classes, options)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        options, ramp = self.options, self.ramp(progress)
        labeled = as_float(batch.labeled_images)
        if ramp == 0:
            return self.burn_in_step(batch, labeled)
        weak = as_float(batch.unlabeled_images)
        fused = self.label(weak, batch.unlabeled_valid)
        targets = soft_label(fused.log(), options.label_temperature)
        strong, cut = cutout(color_jitter(weak, options.color_strength), options.cutout)
        valid = batch.unlabeled_valid & ~cut
        weights, trusted_fraction = confidence_weights(fused.amax(dim=1), valid, options.threshold)

        features = encode(self.student, torch.cat([labeled, strong]))
        logits, strong_logits = decode(self.student, features, strong.shape[-2:]).split([len(labeled), len(strong)])
        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        auxiliary = self.auxiliary_loss([f[: len(labeled)] for f in features], batch)
        unsupervised = weighted_cross_entropy(strong_logits, targets, weights, valid)
        loss = supervised + auxiliary + ramp * options.unsupervised_weight * unsupervised
        terms = {"supervised": supervised, "auxiliary": auxiliary, "unsupervised": unsupervised}
        return StepOutput.from_terms(loss, trusted_fraction, **terms)

    def burn_in_step(self, batch: Batch, labeled: Tensor) -> StepOutput:
        """Return the loss of the labels, for both branches, since both predict pseudo-labels after the burn-in."""
        features = encode(self.student, labeled)
        logits = decode(self.student, features, labeled.shape[-2:])
        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        auxiliary = self.auxiliary_loss(features, batch)
        scalars = {"loss/supervised": supervised.detach(), "loss/auxiliary": auxiliary.detach()}
        return StepOutput(supervised + auxiliary, scalars)

    @labeling()
    def label(self, weak: Tensor, valid: Tensor) -> Tensor:
        """Return P, the fused prediction of both branches, float ``(N, C, H, W)``, for weak views."""
        features = encode(self.student, weak)
        sgc_logits, _ = self.sgc(features, valid)
        return fuse(decode(self.student, features, weak.shape[-2:]), sgc_logits, valid)

    def auxiliary_loss(self, features: list[Tensor], batch: Batch) -> Tensor:
        """Return the cross-entropy of the second branch plus that of its classifier, on the labeled images."""
        shown, known = image_labels(batch.masks, batch.labeled_valid, self.options, self.classes)
        sgc_logits, scores = self.sgc(features, batch.labeled_valid, shown, known)
        bce = F.binary_cross_entropy_with_logits(scores.float(), shown.float(), known.float(), reduction="sum")
        bce = bce / global_mean_denominator(known.sum())
        return self.supervised_loss(sgc_logits, batch.masks, self.class_weights) + bce


class SelfAttentionGradCAM(nn.Module):
    """The second branch: image-level classifier, class activation maps, self-attention, a convolution to logits.

    The classifier learns from image-level labels and passes gradients to the encoder. Query, key and convolution learn
    from labeled pixels and pass no gradient to features and maps (authors' code). All maps share the grid of the
    finer of the two deepest levels. The attention's memory grows with the square of its number of cells.
    """

    def __init__(self, channels: list[int], classes: int, options: PseudoSegOptions) -> None:
        super().__init__()
        if not -1 <= options.background < classes or classes - (options.background >= 0) < 1:
            problem = f"--background: {options.background} is out of range"
            raise ValueError(f"{problem}. Choose -1, or the index of one of several classes")
        self.background, self.side = options.background, options.attention_side
        self.classifier = nn.Linear(channels[-1], classes - (options.background >= 0))
        levels = sum(channels[1:][-2:])
        self.query = nn.Conv2d(levels, options.attention_channels, 1)
        self.key = nn.Conv2d(levels, options.attention_channels, 1)
        self.project = nn.Sequential(nn.Conv2d(classes, classes, 1, bias=False), nn.BatchNorm2d(classes))

    def forward(
        self, features: list[Tensor], valid: Tensor, shown: Tensor | None = None, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the logits of both parts of the branch, with ``C'`` classes that have a map.

        Args:
            features: Features from ``encode``, for images ``(N, 3, H, W)``.
            valid: bool ``(N, H, W)``, False on padding.
            shown: bool ``(N, C')``, whether an image shows a class. Only used where ``known``.
            known: bool ``(N, C')``. Where False, the classifier decides whether the image shows the class.

        Returns:
            Pixel logits ``z_2`` ``(N, C, H, W)`` and the classifier's logits ``(N, C')``.
        """
        levels = features[1:][-2:]
        grid = [min(side, self.side) for side in levels[0].shape[-2:]]
        levels = [F.interpolate(f.float(), grid, mode="bilinear", align_corners=False) for f in levels]
        inside = to_cells(valid[:, None].float(), features, grid) > 0

        scores = self.classifier((levels[-1] * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3)).clamp(min=1))
        present = scores.detach().sigmoid() >= 0.5
        if shown is not None and known is not None:
            present = torch.where(known, shown, present)
        visible = present[:, :, None, None] & inside
        maps = activation_maps(levels[-1].detach(), self.classifier.weight.detach(), visible)
        refined = self.refine(maps, torch.cat(levels, dim=1).detach(), inside)
        if self.background >= 0:
            rest = 2 - refined.amax(dim=1, keepdim=True)
            refined = torch.cat([refined[:, : self.background], rest, refined[:, self.background :]], dim=1)
        return to_pixels(self.project(refined), features, valid.shape[-2:]), scores

    def refine(self, maps: Tensor, levels: Tensor, inside: Tensor) -> Tensor:
        """Return ``R = A M + M`` for maps ``(N, C', h, w)``; ``A`` attends only to cells inside the image."""
        query, key, value = (t.flatten(2).mT for t in (self.query(levels), self.key(levels), maps))
        keys = inside.flatten(2)
        keys = keys | ~keys.any(dim=2, keepdim=True)  # for an image of padding only, softmax needs at least one key
        attended = F.scaled_dot_product_attention(query, key, value.to(query.dtype), keys)
        return attended.mT.view_as(maps) + maps


def activation_maps(features: Tensor, weights: Tensor, shown: Tensor) -> Tensor:
    """Return ``M_c = relu(sum_k w_ck F_k)``, divided by its maximum, for the shown classes; 0 for the others.

    This is Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) for a linear classifier after global average pooling.
    The gradient of its logit with respect to ``F_k`` is ``w_ck`` divided by the number of cells, in every cell. So
    Grad-CAM's map equals CAM's (Zhou et al. 2016) up to that number, which cancels. No backward pass is needed.

    Args:
        features: F, float ``(N, D, h, w)``.
        weights: w, float ``(C', D)``.
        shown: bool ``(N, C', h, w)``, True where a class may be present.
    """
    maps = torch.einsum("ndhw,cd->nchw", features, weights).relu() * shown
    return maps / maps.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def fuse(logits: Tensor, sgc_logits: Tensor, valid: Tensor) -> Tensor:
    """Return P, the mean of both branches' calibrated probabilities, float ``(N, C, H, W)``.

    All logits are divided by one root mean square, over both branches, all classes and all valid pixels of the global
    batch. The result depends on the current shard.
    """
    both, inside = torch.cat([logits.float(), sgc_logits.float()]), torch.cat([valid, valid])[:, None]
    count = (global_sum(inside.sum()) * both.shape[1]).clamp(min=1)
    root_mean_square = (global_sum((both.square() * inside).sum()) / count).sqrt()
    first, second = (both / root_mean_square.clamp(min=1e-6)).chunk(2)
    return (first.softmax(dim=1) + second.softmax(dim=1)) / 2


def image_labels(masks: Tensor, valid: Tensor, options: PseudoSegOptions, classes: int) -> tuple[Tensor, Tensor]:
    """Return whether each image shows each class, and whether that is known: bool ``(N, C')`` each.

    A class with labeled pixels is shown. Any other class is absent if ``known_share`` of the pixels are labeled. If
    fewer are, it is unknown, since it may be among the unlabeled pixels. (Few crops are labeled completely: VOC leaves
    borders unlabeled, CamVid rare objects.)

    Args:
        masks: int64 ``(N, H, W)``, 255 where the class is unknown.
        valid: bool ``(N, H, W)``, False on padding.
        options: Options with ``background`` and ``known_share``.
        classes: Number of classes.
    """
    shown = torch.zeros(len(masks), 256, dtype=torch.bool, device=masks.device).scatter_(1, masks.flatten(1), True)
    shown = torch.cat([shown[:, : max(options.background, 0)], shown[:, options.background + 1 : classes]], dim=1)
    share = ((masks != IGNORE) & valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)
    return shown, shown | (share >= options.known_share)[:, None]
