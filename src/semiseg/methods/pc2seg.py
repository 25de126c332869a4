"""PC2Seg: Zhong, Yuan, Wu, Yuan, Peng, Wang, "Pixel Contrastive-Consistent Semi-Supervised Semantic Segmentation",
ICCV 2021 (https://arxiv.org/abs/2108.09025).

One network sees a weak and a strong view of each unlabeled image. Its predictions for a pixel should agree in both
views (consistency). So should its features of a pixel, which should also differ from those of other pixels (contrast)::

    L_unsup = 1/|V| sum_V || softmax f(s(x_u)) - sg softmax f(w(x_u)) ||^2           V: valid pixels (no padding)
    h, h+   = g(s(x_u)), sg g(w(x_u))                  g: encoder and projection, unit length; one cell in two views
    L_con   = mean over anchors i of -log e^(h_i h_i+ / tau) / (e^(h_i h_i+ / tau) + sum_(n in N_i) e^(h_i h_n+ / tau))
    N_i     = random cells of other images, without those that have the pseudo-label of i
    L       = CE(f(x_l), y) + lambda_1 L_unsup + lambda_2 L_con

The authors' code is not public, and the constants of the published runs are unknown. Our values are marked "our
default".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, UnlabeledOptions, as_float
from semiseg.ops.features import decode, encode, feature_channels, to_cells
from semiseg.ops.global_batch import to_device, uniform
from semiseg.ops.losses import info_nce, weighted_squared_error
from semiseg.ops.photometric import photometric
from semiseg.ops.pseudo_labels import labeling
from semiseg.option_ranges import AT_LEAST_ONE, FRACTION, NOT_NEGATIVE, POSITIVE


@dataclass(frozen=True)
class PC2SegOptions(UnlabeledOptions):
    """Options of pixel-contrastive consistency; each default with its source."""

    unsupervised_weight: Annotated[float, NOT_NEGATIVE] = 1.0
    """lambda_1, weight of the consistency between views (our default)."""
    contrast_weight: Annotated[float, NOT_NEGATIVE] = 0.1
    """lambda_2, weight of the contrast between pixels (our default). 0 leaves it out."""
    contrast_temperature: Annotated[float, POSITIVE] = 0.1
    """tau, temperature of the contrast: if low, the most similar negatives dominate (our default)."""
    anchors: Annotated[int, AT_LEAST_ONE] = 256
    """Largest number of cells per image that are compared with negatives (our default)."""
    negatives: Annotated[int, AT_LEAST_ONE] = 256
    """Largest number of cells of other images that each anchor is compared with (our default)."""
    debias: bool = True
    """Leave out negatives with the anchor's pseudo-label, which are likely false negatives (paper)."""
    projection: Annotated[int, AT_LEAST_ONE] = 128
    """Channels of the compared features (our default)."""
    color_strength: Annotated[float, FRACTION] = 0.5
    """Strength of color jitter in the strong view (UniMatch: 0.5)."""


class PC2Seg(Method):
    """One network, consistent between two views and contrastive between images; see the module's docstring.

    Our choices where the paper leaves a detail open:

    - The deepest features are projected by two convolutions without normalization.
    - Positives and negatives come from the weak view and get no gradient.
    - False negatives are found by their pseudo-labels. Weighting each negative by the probability of another class
      would give the same result where the network is confident.
    """

    Options = PC2SegOptions
    summary = "two views agree, features of different pixels differ"
    papers: ClassVar = {"Zhong et al. 2021": "https://arxiv.org/abs/2108.09025"}

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: PC2SegOptions) -> None:
        super().__init__(build, classes, options)
        width = feature_channels(self.student)[-1]
        self.projector = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, options.projection, 1))

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        options, ramp, valid = self.options, self.ramp(progress), batch.unlabeled_valid
        if ramp == 0:
            return self.supervised_step(batch)
        labeled, weak = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        strong = photometric(weak, options.color_strength)
        with labeling():
            weak_features = encode(self.student, weak)
            targets = decode(self.student, weak_features, weak.shape[-2:]).float().softmax(dim=1)
        features = encode(self.student, torch.cat([labeled, strong]))
        logits, strong_logits = decode(self.student, features, strong.shape[-2:]).split([len(labeled), len(strong)])

        supervised = self.supervised_loss(logits, batch.masks, self.class_weights)
        unsupervised = weighted_squared_error(strong_logits, targets, torch.ones_like(targets[:, 0]), valid)
        contrast = supervised.new_zeros(())
        if options.contrast_weight > 0:
            contrast = self.contrast([f[len(labeled) :] for f in features], weak_features, targets, valid)
        loss = supervised + ramp * (options.unsupervised_weight * unsupervised + options.contrast_weight * contrast)
        return StepOutput.from_terms(loss, supervised=supervised, unsupervised=unsupervised, consistency=contrast)

    def contrast(self, strong: list[Tensor], weak: list[Tensor], probabilities: Tensor, valid: Tensor) -> Tensor:
        """Return ``L_con``.

        Args:
            strong: Features of the N strong views, from ``encode``.
            weak: Features of the weak views.
            probabilities: The network's for the weak views, float ``(N, C, H, W)``; they identify false negatives.
            valid: bool ``(N, H, W)``, False on padding.
        """
        options, n, grid = self.options, len(probabilities), strong[-1].shape[-2:]
        strong_cells = self.project(strong[-1], grid)
        with labeling():
            weak_cells = self.project(weak[-1], grid)
            inside = (to_cells(valid[:, None].float(), strong, grid) > 0).flatten(1)
            classes = to_cells(probabilities * valid[:, None], strong, grid).argmax(dim=1).flatten(1)
        other_images = ~torch.eye(n, dtype=torch.bool, device=valid.device)[:, :, None] & inside

        anchors, is_anchor = sample_cells(inside, options.anchors)
        negatives, allowed = sample_cells(other_images.flatten(1), options.negatives)
        anchor, positive = (cells.take_along_dim(anchors[:, :, None], dim=1) for cells in (strong_cells, weak_cells))
        negative = weak_cells.flatten(0, 1)[negatives]
        allowed = allowed[:, None]
        if options.debias:
            anchor_classes = classes.take_along_dim(anchors, dim=1)[:, :, None]
            allowed = allowed & (anchor_classes != classes.flatten()[negatives][:, None])
        similarity = (anchor * positive).sum(dim=2)
        return info_nce(similarity, anchor @ negative.mT, allowed, is_anchor, options.contrast_temperature)

    def project(self, deepest: Tensor, grid: Sequence[int]) -> Tensor:
        """Return ``h``, float ``(N, P, D)`` of unit length, for each of the ``P`` cells of ``grid``.

        A network may pad a single image more than several images. The additional cells are cut off.
        """
        h = self.projector(deepest[..., : grid[0], : grid[1]]).float()
        return F.normalize(h, dim=1).flatten(2).mT


def sample_cells(allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sample ``count`` different cells of each row, allowed cells first. The result depends on the current shard.

    Args:
        allowed: bool ``(N, P)``.
        count: At least 1.

    Returns:
        Indices, int64 ``(N, min(count, P))``, and bool of that shape, False where a cell is not allowed.
    """
    scores = to_device(uniform(*allowed.shape), allowed).masked_fill(~allowed, -1.0)
    score, index = scores.topk(min(count, allowed.shape[1]), dim=1)
    return index, score >= 0
