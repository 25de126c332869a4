"""PseudoSeg: Zou, Zhang, Zhang, Li, Bian, Huang, Pfister, "PseudoSeg: Designing Pseudo Labels for Semantic
Segmentation", ICLR 2021.

One network labels weak views for its own strong ones, with the help of a second branch that knows from image-level
labels alone where a class lies: class activation maps, refined by self-attention (SGC). The two err differently, so
their calibrated mean is the pseudo-label, soft and without threshold::

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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiseg.methods.method import Batch, Method, Progress, StepOutput, as_float, check_range
from semiseg.ops.features import decode, encode, feature_channels, to_cells, to_pixels
from semiseg.ops.global_batch import divisor, global_sum
from semiseg.ops.losses import IGNORE, weighted_cross_entropy
from semiseg.ops.photometric import color_jitter, cutout
from semiseg.ops.pseudo_labels import confidence_weights, labeling, soft_label


@dataclass(frozen=True)
class PseudoSegOptions:
    """Options of PseudoSeg; each default with its source."""

    unsupervised_weight: float = 1.0
    """lambda (release: 1)."""
    label_temperature: float = 0.5
    """T, by which pseudo-labels are sharpened (paper: 0.5); 1: as fused; 0: the decision."""
    threshold: float = 0.0
    """Confidence of the fused prediction from which a pixel counts (paper: 0, all of them)."""
    background: int = -1
    """Class without a map of its own, shown where no other is (the paper on VOC: 0); -1: every class has a map."""
    known_share: float = 0.75
    """Labeled share of a crop from which a class not seen in it counts as absent (ours; release: 0)."""
    color_strength: float = 0.5
    """Strength of color jitter in the strong view (release: 0.5)."""
    cutout: float = 0.195
    """Side of the rectangle cut out of the strong view, relative to the crop's (release: 100 of 513 pixels)."""
    attention_channels: int = 128
    """d, channels of query and key (release: 128)."""
    attention_side: int = 33
    """Cells of the attention's grid, per side at most (33: a crop of 513 at stride 16, as in the release)."""
    burn_in: float = 0.0
    """Share of the run on labels only (ours; 0: as published)."""
    ramp_up: float = 0.0
    """Share of the run over which lambda rises linearly after the burn-in (ours; 0: as published)."""

    def __post_init__(self) -> None:
        check_range(self, 1, "label_temperature", "threshold", "known_share", "color_strength", "cutout")
        check_range(self, 1, "burn_in", "ramp_up")
        check_range(self, float("inf"), "unsupervised_weight")
        if self.attention_channels < 1:
            raise ValueError(f"attention-channels is {self.attention_channels}: it must be at least 1")
        if self.attention_side < 2:  # BatchNorm cannot train on a single cell
            raise ValueError(f"attention-side is {self.attention_side}: it must be at least 2")


class PseudoSeg(Method):
    """One network and its second branch, which is used in training only; see the module's docstring.

    Departures: padding is left out of pooling, maps, attention and the root mean square; a labeled crop with many
    unknown pixels does not say which classes are absent.
    """

    Options = PseudoSegOptions

    def __init__(self, build: Callable[[], nn.Module], classes: int, options: PseudoSegOptions) -> None:
        super().__init__(build, classes, options)
        self.sgc = SelfAttentionGradCAM(feature_channels(self.student), classes, options)

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Return the loss of one step."""
        o, ramp = self.options, self.ramp(progress)
        x_l, x_w = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        if ramp == 0:  # the second branch learns in the burn-in too: it labels from the first step after
            features = encode(self.student, x_l)
            loss_sup = self.supervised_loss(
                decode(self.student, features, x_l.shape[-2:]), batch.masks, self.class_weights
            )
            loss_aux = self.auxiliary_loss(features, batch)
            scalars = {"loss/supervised": loss_sup.detach(), "loss/auxiliary": loss_aux.detach()}
            return StepOutput(loss_sup + loss_aux, scalars)

        p = self.label(x_w, batch.unlabeled_valid)
        q = soft_label(p.log(), o.label_temperature)
        x_s, cut = cutout(color_jitter(x_w, o.color_strength), o.cutout)
        valid = batch.unlabeled_valid & ~cut
        w, trusted_fraction = confidence_weights(p.amax(dim=1), valid, o.threshold)

        features = encode(self.student, torch.cat([x_l, x_s]))
        z_l, z_s = decode(self.student, features, x_s.shape[-2:]).split([len(x_l), len(x_s)])
        loss_sup = self.supervised_loss(z_l, batch.masks, self.class_weights)
        loss_aux = self.auxiliary_loss([f[: len(x_l)] for f in features], batch)
        loss_unsup = weighted_cross_entropy(z_s, q, w, valid)
        loss = loss_sup + loss_aux + ramp * o.unsupervised_weight * loss_unsup
        scalars = {"supervised": loss_sup, "auxiliary": loss_aux, "unsupervised": loss_unsup}
        scalars = {f"loss/{name}": value.detach() for name, value in scalars.items()}
        return StepOutput(loss, scalars | {"trusted_fraction": trusted_fraction})

    @labeling()
    def label(self, x_w: Tensor, valid: Tensor) -> Tensor:
        """P, the fused prediction of both branches, float ``(N, C, H, W)``, for weak views."""
        features = encode(self.student, x_w)
        z_2, _ = self.sgc(features, valid)
        return fuse(decode(self.student, features, x_w.shape[-2:]), z_2, valid)

    def auxiliary_loss(self, features: list[Tensor], batch: Batch) -> Tensor:
        """The second branch's cross-entropy and the classifier's binary cross-entropy, on the labeled images."""
        shown, known = image_labels(batch.masks, batch.labeled_valid, self.options, self.classes)
        z_2, s = self.sgc(features, batch.labeled_valid, shown, known)
        bce = F.binary_cross_entropy_with_logits(s.float(), shown.float(), known.float(), reduction="sum")
        return self.supervised_loss(z_2, batch.masks, self.class_weights) + bce / divisor(known.sum())


class SelfAttentionGradCAM(nn.Module):
    """The second branch: image-level classifier, class activation maps, self-attention, a convolution to logits.

    The classifier learns from image-level labels only, and teaches the encoder. Query, key and convolution learn from
    the labeled pixels and teach nobody: features and maps reach them without gradient (release). All of it happens on
    one grid, that of the finer one of the two deepest levels; the attention's memory grows with its cells' square.
    """

    def __init__(self, channels: list[int], classes: int, options: PseudoSegOptions) -> None:
        super().__init__()
        if not -1 <= options.background < classes or classes - (options.background >= 0) < 1:
            raise ValueError(f"background is {options.background}: it must be -1 or one of several classes, from 0")
        self.background, self.side = options.background, options.attention_side
        self.classifier = nn.Linear(channels[-1], classes - (options.background >= 0))
        levels = sum(channels[1:][-2:])
        self.query = nn.Conv2d(levels, options.attention_channels, 1)
        self.key = nn.Conv2d(levels, options.attention_channels, 1)
        self.project = nn.Sequential(nn.Conv2d(classes, classes, 1, bias=False), nn.BatchNorm2d(classes))

    def forward(
        self, features: list[Tensor], valid: Tensor, shown: Tensor | None = None, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return logits ``z_2`` ``(N, C, H, W)``, and the classifier's ``(N, C')``, ``C'`` classes with a map.

        Args:
            features: as ``encode`` gives them for images ``(N, 3, H, W)``.
            valid: bool ``(N, H, W)``, False on padding.
            shown: bool ``(N, C')``, whether an image shows a class, where that is ``known``; else the classifier says.
            known: bool ``(N, C')``.
        """
        levels = features[1:][-2:]
        grid = [min(side, self.side) for side in levels[0].shape[-2:]]
        levels = [F.interpolate(f.float(), grid, mode="bilinear", align_corners=False) for f in levels]
        inside = to_cells(valid[:, None].float(), features, grid) > 0

        s = self.classifier((levels[-1] * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3)).clamp(min=1))
        present = s.detach().sigmoid() >= 0.5
        if shown is not None and known is not None:
            present = torch.where(known, shown, present)
        m = activation_maps(levels[-1].detach(), self.classifier.weight.detach(), present[:, :, None, None] & inside)
        r = self.refine(m, torch.cat(levels, dim=1).detach(), inside)
        if self.background >= 0:
            rest = 2 - r.amax(dim=1, keepdim=True)
            r = torch.cat([r[:, : self.background], rest, r[:, self.background :]], dim=1)
        return to_pixels(self.project(r), features, valid.shape[-2:]), s

    def refine(self, m: Tensor, levels: Tensor, inside: Tensor) -> Tensor:
        """Return ``R = A M + M``; ``A`` leads from each cell to all that are no padding. Maps are ``(N, C', h, w)``."""
        q, k, v = (t.flatten(2).mT for t in (self.query(levels), self.key(levels), m))
        keys = inside.flatten(2)
        keys = keys | ~keys.any(dim=2, keepdim=True)  # all padding: the maps are 0, and a softmax wants something
        attended = F.scaled_dot_product_attention(q, k, v.to(q.dtype), keys)
        return attended.mT.view_as(m) + m


def activation_maps(features: Tensor, weights: Tensor, shown: Tensor) -> Tensor:
    """Return ``M_c = relu(sum_k w_ck F_k)``, divided by its maximum, of the classes shown: in [0, 1], 0 elsewhere.

    This is Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of a linear classifier behind global average pooling:
    the gradient of its logit by ``F_k`` is ``w_ck`` over the number of cells, in every cell, so that Grad-CAM's map is
    CAM's (Zhou et al. 2016) but for that number, and the division takes it away. No backward pass a class is needed.

    Args:
        features: F, float ``(N, D, h, w)``.
        weights: w, float ``(C', D)``.
        shown: bool ``(N, C', h, w)``, True where a class may be.
    """
    maps = torch.einsum("ndhw,cd->nchw", features, weights).relu() * shown
    return maps / maps.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def fuse(z_1: Tensor, z_2: Tensor, valid: Tensor) -> Tensor:
    """Return P, the mean of both branches' probabilities after one calibration, float ``(N, C, H, W)``.

    Logits are divided by the root of their mean square over both branches, all classes and all pixels of the
    global batch that are no padding, so that neither branch wins by the scale of its logits.
    """
    v, inside = torch.cat([z_1.float(), z_2.float()]), torch.cat([valid, valid])[:, None]
    mean_square = global_sum((v.square() * inside).sum()) / (global_sum(inside.sum()) * v.shape[1]).clamp(min=1)
    v_1, v_2 = (v / mean_square.sqrt().clamp(min=1e-6)).chunk(2)
    return (v_1.softmax(dim=1) + v_2.softmax(dim=1)) / 2


def image_labels(masks: Tensor, valid: Tensor, options: PseudoSegOptions, classes: int) -> tuple[Tensor, Tensor]:
    """Return which classes each image shows, and of which of them that is known: bool ``(N, C')`` each.

    A class among the labeled pixels is shown. Another is absent where ``known_share`` of the pixels are labeled; else
    nobody knows: it may hide among the others. (To demand all of them would leave little absent: borders are
    unlabeled in VOC, odd things in CamVid, and few crops are without either.)

    Args:
        masks: int64 ``(N, H, W)``, 255 where nothing is known.
        valid: bool ``(N, H, W)``, False on padding.
    """
    shown = torch.zeros(len(masks), 256, dtype=torch.bool, device=masks.device).scatter_(1, masks.flatten(1), True)
    shown = torch.cat([shown[:, : max(options.background, 0)], shown[:, options.background + 1 : classes]], dim=1)
    share = ((masks != IGNORE) & valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)
    return shown, shown | (share >= options.known_share)[:, None]
