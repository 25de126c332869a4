"""PC2Seg: Zhong, Yuan, Wu, Yuan, Peng, Wang, "Pixel Contrastive-Consistent Semi-Supervised Semantic Segmentation",
ICCV 2021.

One network sees a weak and a strong view of each unlabeled image. What it says of a pixel is to be the same in both
(consistency), and so is what it sees there, a feature unlike those of other pixels (contrast)::

    L_unsup = 1/|V| sum_V || softmax f(s(x_u)) - sg softmax f(w(x_u)) ||^2           V: pixels that are no padding
    h, h+   = g(s(x_u)), sg g(w(x_u))                  g: encoder and projection, of length 1; one place in two views
    L_con   = mean over anchors i of -log e^(h_i h_i+ / tau) / (e^(h_i h_i+ / tau) + sum_(n in N_i) e^(h_i h_n+ / tau))
    N_i     = places in other images, drawn at random, but for those with the pseudo-label of i
    L       = CE(f(x_l), y) + lambda_1 L_unsup + lambda_2 L_con

There is no public code, and the constants of the published runs are not known to us: each such default is ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range
from semiseg.ops.features import decode, encode, feature_channels, to_cells
from semiseg.ops.global_batch import uniform
from semiseg.ops.losses import info_nce, weighted_squared_error
from semiseg.ops.photometric import photometric
from semiseg.ops.pseudo_labels import labeling


@dataclass(frozen=True)
class PC2SegOptions:
    """Options of pixel-contrastive consistency; each default with its source."""

    unsupervised_weight: float = 1.0
    """lambda_1, of the consistency between views (ours)."""
    contrast_weight: float = 0.1
    """lambda_2, of the contrast between pixels (ours); 0 leaves it out."""
    contrast_temperature: float = 0.1
    """tau: the lower, the more the nearest negatives count (ours)."""
    anchors: int = 256
    """Places drawn in each image for which the contrast is computed, at most (ours)."""
    negatives: int = 256
    """Places drawn in all other images, to tell each anchor from, at most (ours)."""
    debias: bool = True
    """Leave out negatives whose pseudo-label is the anchor's, likely false ones (the paper's idea)."""
    projection: int = 128
    """Channels of the features compared (ours)."""
    color_strength: float = 0.5
    """Strength of color jitter in the strong view (UniMatch: 0.5)."""
    burn_in: float = 0.0
    """Share of the run on labels only (ours)."""
    ramp_up: float = 0.0
    """Share of the run over which both lambdas rise linearly after the burn-in (ours)."""

    def __post_init__(self) -> None:
        check_range(self, 1, "color_strength", "burn_in", "ramp_up")
        check_range(self, float("inf"), "unsupervised_weight", "contrast_weight")
        if self.contrast_temperature <= 0:
            raise ValueError(f"contrast-temperature is {self.contrast_temperature}: it must be positive")
        for name in ("anchors", "negatives", "projection"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")


class PC2Seg(Method):
    """One network, consistent between two views and contrastive between images; see the module's docstring.

    Choices where the text leaves one: the deepest features are projected, by two convolutions without normalization;
    what anchors are compared with comes from the weak view and gets no gradient; against false negatives stands the
    pseudo-label (one could weigh a negative by the probability that it is of another class instead, which is the same
    where the network is sure).
    """

    Options = PC2SegOptions

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: PC2SegOptions) -> None:
        super().__init__(build, classes, options)
        width = feature_channels(self.student)[-1]
        self.projector = nn.Sequential(nn.Conv2d(width, width, 1), nn.ReLU(), nn.Conv2d(width, options.projection, 1))

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        o, ramp, valid = self.options, self.ramp(progress), batch.unlabeled_valid
        if ramp == 0:
            return self.supervised_step(batch)

        x_l, x_w = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        x_s = photometric(x_w, o.color_strength)
        with labeling():
            f_w = encode(self.student, x_w)
            q = decode(self.student, f_w, x_w.shape[-2:]).float().softmax(dim=1)
        features = encode(self.student, torch.cat([x_l, x_s]))
        z_l, z_s = decode(self.student, features, x_s.shape[-2:]).split([len(x_l), len(x_s)])

        loss_sup = self.supervised_loss(z_l, batch.masks, self.class_weights)
        loss_unsup = weighted_squared_error(z_s, q, torch.ones_like(q[:, 0]), valid)
        loss_con = loss_sup.new_zeros(())
        if o.contrast_weight > 0:
            loss_con = self.contrast([f[len(x_l) :] for f in features], f_w, q, valid)
        loss = loss_sup + ramp * (o.unsupervised_weight * loss_unsup + o.contrast_weight * loss_con)
        scalars = {"supervised": loss_sup, "unsupervised": loss_unsup, "consistency": loss_con}
        scalars = {f"loss/{name}": value.detach() for name, value in scalars.items()}
        return StepOutput(loss, scalars | {"trusted_fraction": loss.new_ones(())})

    def contrast(self, f_s: list[Tensor], f_w: list[Tensor], q: Tensor, valid: Tensor) -> Tensor:
        """Return ``L_con`` of both views' features; q, ``(N, C, H, W)``, says which negatives may be false ones."""
        o, n, grid = self.options, len(q), f_s[-1].shape[-2:]
        h_s = self.project(f_s[-1], grid)
        with labeling():
            h_w = self.project(f_w[-1], grid)
            inside = (to_cells(valid[:, None].float(), f_s, grid) > 0).flatten(1)
            yhat = to_cells(q * valid[:, None], f_s, grid).argmax(dim=1).flatten(1)
        others = ~torch.eye(n, dtype=torch.bool, device=q.device)[:, :, None] & inside

        anchors, is_anchor = draw(inside, o.anchors)
        negatives, is_negative = draw(others.flatten(1), o.negatives)
        h_i, h_plus = (h.take_along_dim(anchors[:, :, None], dim=1) for h in (h_s, h_w))
        h_n = h_w.flatten(0, 1)[negatives]
        allowed = is_negative[:, None]
        if o.debias:
            allowed = allowed & (yhat.take_along_dim(anchors, dim=1)[:, :, None] != yhat.flatten()[negatives][:, None])
        return info_nce((h_i * h_plus).sum(dim=2), h_i @ h_n.mT, allowed, is_anchor, o.contrast_temperature)

    def project(self, deepest: Tensor, grid: Sequence[int]) -> Tensor:
        """Return ``h``, of length 1, float ``(N, P, D)``, for each of the ``P`` cells of ``grid``.

        A network may pad a lone image more than several; the cells more are cut off.
        """
        h = self.projector(deepest[..., : grid[0], : grid[1]]).float()
        return F.normalize(h, dim=1).flatten(2).mT


def draw(allowed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Draw ``count`` different places of each row, those allowed first; where these are few, the rest is marked.

    Args:
        allowed: bool ``(N, P)``.
        count: at least 1.

    Returns:
        int64 ``(N, min(count, P))``, and bool of that shape, False where a place is not allowed.
    """
    scores = uniform(*allowed.shape).to(allowed.device).masked_fill(~allowed, -1.0)
    score, index = scores.topk(min(count, allowed.shape[1]), dim=1)
    return index, score >= 0
