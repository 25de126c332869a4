"""PseudoSeg: its equations by hand, and gradients of each loss."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from semiseg.data import CamVid
from semiseg.data.stream.weak_view import weak_view
from semiseg.methods import METHODS, Batch, Progress
from semiseg.methods import pseudoseg as module
from semiseg.methods.method import as_float
from semiseg.methods.pseudoseg import PseudoSegOptions, SelfAttentionGradCAM, activation_maps, fuse, image_labels
from semiseg.networks import build
from semiseg.ops.losses import cross_entropy
from semiseg.ops.pseudo_labels import soft_label
from toy import gradients, make, make_batch

PROGRESS = Progress(50, 100, 10)


def branch(channels: int = 4, classes: int = 3, **options: object) -> SelfAttentionGradCAM:
    """Return the second branch for features of one level."""
    torch.manual_seed(0)
    return SelfAttentionGradCAM([3, channels], classes, PseudoSegOptions(**options))


def features_of(deepest: Tensor) -> list[Tensor]:
    """Return features as from ``encode`` for images of the same size."""
    return [torch.zeros(len(deepest), 3, *deepest.shape[-2:]), deepest]


def everywhere(features: list[Tensor]) -> Tensor:
    return torch.ones(len(features[0]), *features[0].shape[-2:], dtype=torch.bool)


# Class activation maps.


def test_activation_maps_by_hand() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])  # two channels, two cells
    weights = torch.tensor([[2.0, 0.0], [1.0, -1.0], [1.0, 1.0]])
    shown = torch.tensor([[True, True, False]])[:, :, None, None]
    # (2, 4) / 4; relu(-2, 2) / 2; not shown.
    expected = [[[[0.5, 1.0]], [[0.0, 1.0]], [[0.0, 0.0]]]]
    assert activation_maps(features, weights, shown).tolist() == expected
    assert not activation_maps(features, -weights[:1], shown[:, :1]).any()  # an all-zero map is not divided by 0


@pytest.mark.parametrize("padded", [False, True])
def test_activation_maps_equal_grad_cam(padded: bool) -> None:
    sgc, features = branch(channels=6, classes=4), features_of(torch.randn(2, 6, 5, 4).requires_grad_())
    valid = everywhere(features)
    valid[0, :, 2:] &= not padded
    shown = torch.ones(2, 4, dtype=torch.bool)
    seen: list[Tensor] = []
    sgc.refine = lambda m, levels, inside: seen.append(m) or m  # type: ignore[method-assign,func-returns-value]
    _, s = sgc(features, valid, shown, shown)
    for c in range(4):
        (gradient,) = torch.autograd.grad(s[:, c].sum(), features[-1], retain_graph=True)
        alpha = gradient.mean(dim=(2, 3), keepdim=True)  # Selvaraju et al. 2017, equation 1
        grad_cam = (alpha * features[-1]).sum(dim=1).relu() * valid  # equation 2
        largest = grad_cam.amax(dim=(1, 2), keepdim=True)
        assert (largest > 0).all()
        torch.testing.assert_close(seen[0][:, c], grad_cam / largest)


def test_classifier_decides_for_unknown_classes() -> None:
    sgc, features = branch(), features_of(torch.ones(1, 4, 2, 2))
    with torch.no_grad():
        sgc.classifier.weight.fill_(0.25)
        sgc.classifier.bias.copy_(torch.tensor([-1.0, -1.5, 0.0]))  # logits 0, -0.5, 1: the first is exactly at 1/2
    seen: list[Tensor] = []
    sgc.refine = lambda m, levels, inside: seen.append(m[0, :, 0, 0]) or m  # type: ignore[method-assign,func-returns-value]
    sgc(features, everywhere(features))
    shown, known = torch.tensor([[False, True, False]]), torch.tensor([[True, True, False]])
    sgc(features, everywhere(features), shown, known)
    assert [m.tolist() for m in seen] == [[1, 0, 1], [0, 1, 1]]


# Self-attention.

CELLS, MAPS = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]]), torch.tensor([[[[1.0, 0.0], [0.5, 0.0]]]])


def attention(d: int = 1) -> SelfAttentionGradCAM:
    """``q = ln 3 f sqrt(d)`` and ``k = f`` in each of ``d`` equal channels, over ``sqrt(d)``: exp(qk) is 3^(f f') d."""
    sgc = branch(channels=1, classes=1, attention_channels=d)
    with torch.no_grad():
        sgc.query.weight.fill_(math.log(3) / math.sqrt(d))
        sgc.key.weight.fill_(1.0)
        for layer in (sgc.query, sgc.key):
            assert layer.bias is not None
            layer.bias.zero_()
    return sgc


@pytest.mark.parametrize("d", [1, 4])
def test_refinement_by_hand(d: int) -> None:
    refined = attention(d).refine(MAPS, CELLS, torch.ones(1, 1, 2, 2, dtype=torch.bool))
    # Cells of feature 0 attend uniformly: 1.5 / 4. The others have weights 1, 1, 3, 3 over 8: (1 + 1.5) / 8. Plus M.
    torch.testing.assert_close(refined, torch.tensor([[[[1.375, 0.375], [0.8125, 0.3125]]]]))


def test_attention_ignores_padding() -> None:
    inside = torch.tensor([[[[False, True], [True, True]]]])
    refined = attention().refine(MAPS * inside, CELLS, inside)
    # 0.5 / 3 from feature 0, 3 * 0.5 / 7 from feature 1; padding has no effect.
    torch.testing.assert_close(refined[0, 0, 0, 1], torch.tensor(0.5 / 3))
    torch.testing.assert_close(refined[0, 0, 1], torch.tensor([0.5 + 1.5 / 7, 1.5 / 7]))
    nowhere = attention().refine(0 * MAPS, CELLS, torch.zeros_like(inside))
    assert not nowhere.any()


@pytest.mark.parametrize("background", [0, 1, 2])
def test_background_is_present_where_other_classes_are_absent(background: int) -> None:
    sgc, features = branch(background=background).eval(), features_of(torch.randn(2, 4, 3, 3))
    r = 2 * torch.rand(2, 2, 3, 3)
    sgc.refine = lambda m, levels, inside: r  # type: ignore[method-assign]
    seen: list[Tensor] = []
    sgc.project.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    z_2, s = sgc(features, everywhere(features))
    assert z_2.shape == (2, 3, 3, 3) and s.shape == (2, 2)
    others = [c for c in range(3) if c != background]
    assert torch.equal(seen[0][:, others], r)
    torch.testing.assert_close(seen[0][:, background], 2 - r.amax(dim=1))


def test_refined_maps_lie_between_zero_and_two() -> None:
    sgc, features = branch(background=0), features_of(5 * torch.randn(3, 4, 6, 5))
    seen: list[Tensor] = []
    sgc.project.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    sgc(features, everywhere(features))
    assert seen[0].min() >= 0 and seen[0].max() <= 2 + 1e-6


def test_grid_size() -> None:
    for side, grid in ((33, (6, 4)), (5, (5, 4))):
        sgc = SelfAttentionGradCAM([3, 8, 4, 6], 3, PseudoSegOptions(attention_side=side))
        levels = [torch.randn(1, 3, 48, 32), torch.randn(1, 8, 12, 8), torch.randn(1, 4, 6, 4), torch.randn(1, 6, 3, 2)]
        seen: list[Tensor] = []
        sgc.project.register_forward_pre_hook(lambda _, args: seen.append(args[0]))  # noqa: B023 (used in this pass)
        z_2, _ = sgc(levels, torch.ones(1, 47, 30, dtype=torch.bool))
        assert seen[0].shape[-2:] == grid
        assert z_2.shape == (1, 3, 47, 30)


# Fusion.


def test_fusion_by_hand() -> None:
    z_1, z_2 = torch.tensor([[[[6.0, 900.0]], [[0.0, 0.0]]]]), torch.zeros(1, 2, 1, 2)
    valid = torch.tensor([[[True, False]]])
    # Without padding the mean square is 36 / 4, so v = (2, 0) and (0, 0): (0.880797 + 0.5) / 2.
    torch.testing.assert_close(fuse(z_1, z_2, valid)[0, :, 0, 0], torch.tensor([0.6903985, 0.3096015]))


def test_root_mean_square_is_shared_by_branches_and_batch() -> None:
    z_1, z_2 = torch.randn(2, 3, 2, 2), 5 * torch.randn(2, 3, 2, 2)
    valid = torch.ones(2, 2, 2, dtype=torch.bool)
    p = fuse(z_1, z_2, valid)
    rms = torch.cat([z_1, z_2]).square().mean().sqrt()
    torch.testing.assert_close(p, ((z_1 / rms).softmax(dim=1) + (z_2 / rms).softmax(dim=1)) / 2)
    torch.testing.assert_close(fuse(100 * z_1, 100 * z_2, valid), p)  # independent of the scale
    torch.testing.assert_close(fuse(0 * z_1, 0 * z_2, valid), torch.full_like(p, 1 / 3))
    assert fuse(z_1, z_2, ~valid).isfinite().all()


def test_fused_predictions_are_sharpened() -> None:
    p = torch.tensor([0.6, 0.3, 0.1, 0.0]).view(1, 4, 1, 1)  # squared 0.36, 0.09, 0.01, over 0.46
    torch.testing.assert_close(soft_label(p.log(), 0.5).flatten(), torch.tensor([0.36, 0.09, 0.01, 0.0]) / 0.46)


# Image-level labels.


def test_image_labels_by_hand() -> None:
    masks = torch.full((4, 2, 4), 255)
    valid = torch.ones(4, 2, 4, dtype=torch.bool)
    masks[0] = 2  # all labeled: 0 and 1 are absent
    masks[1, :, :3] = 1  # three quarters labeled: likewise
    masks[2, 0, :] = 0  # half of it labeled: no class is known to be absent,
    masks[3, 0, :] = 0  # unless the other half is padding
    valid[3, 1] = False
    shown, known = image_labels(masks, valid, PseudoSegOptions(), 3)
    assert shown.int().tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert known.int().tolist() == [[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 1]]
    shown, known = image_labels(masks, valid, PseudoSegOptions(background=1), 3)
    assert shown.int().tolist() == [[0, 1], [0, 0], [1, 0], [1, 0]]
    assert known.int().tolist() == [[1, 1], [1, 1], [1, 0], [1, 1]]
    _, known = image_labels(masks, valid, PseudoSegOptions(known_share=1.0), 3)
    assert known.int().tolist() == [[1, 1, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]]
    _, known = image_labels(masks, torch.zeros_like(valid), PseudoSegOptions(), 3)
    assert not known[:, 0][shown[:, 0] == 0].any()  # only padding: no class is absent


def test_share_of_camvid_crops_with_known_absent_classes(camvid_dir: Path) -> None:
    dataset, views = CamVid(camvid_dir), []
    for index, id in enumerate((dataset.split("train") or ())[::10]):
        image, mask = dataset.read_image(id), dataset.read_mask(id)
        views += [weak_view(image, mask, 128, 4 * index + k, image_scale=0.5)[1:] for k in range(4)]
    masks, valid = (torch.stack(parts) for parts in zip(*views, strict=True))
    shares = []
    for options in (PseudoSegOptions(), PseudoSegOptions(known_share=1.0)):
        _, known = image_labels(masks.long(), valid, options, len(dataset.classes))
        shares.append(known.all(dim=1).float().mean().item())
    assert shares[0] > 0.95 and shares[1] < 0.2


def test_classifier_learns_from_known_classes_only() -> None:
    method, batch = make("pseudoseg").eval(), make_batch()
    batch.masks[:] = 255
    batch.masks[0, 0, 0] = 1  # image 1 shows class 1, all else is unknown
    with torch.no_grad():
        method.sgc.classifier.weight.zero_()
        method.sgc.classifier.bias.copy_(torch.tensor([5.0, math.log(3), -7.0]))
        features = method.student.encode(as_float(batch.labeled_images))
        z_2, _ = method.sgc(features, batch.labeled_valid, *image_labels(batch.masks, batch.labeled_valid, *of(method)))
        bce = method.auxiliary_loss(features, batch) - cross_entropy(z_2, batch.masks)
    assert bce.item() == pytest.approx(-math.log(0.75), abs=1e-5)


def of(method: nn.Module) -> tuple[PseudoSegOptions, int]:
    return method.options, method.classes


# Gradients.


def test_only_the_classifier_trains_the_encoder() -> None:
    sgc, deepest = branch(), torch.randn(2, 4, 5, 5).requires_grad_()
    features, shown = features_of(deepest), torch.ones(2, 3, dtype=torch.bool)
    z_2, s = sgc(features, everywhere(features), shown, shown)
    rest = nn.ModuleList([sgc.query, sgc.key, sgc.project])
    cross_entropy(z_2, torch.zeros(2, 5, 5, dtype=torch.long)).backward(retain_graph=True)
    assert deepest.grad is None and not gradients(sgc.classifier).any()
    for part in rest:
        assert gradients(part).any()
    sgc.zero_grad()
    s.sum().backward()
    assert deepest.grad is not None and gradients(sgc.classifier).any()
    assert not gradients(rest).any()


def test_pseudo_labels_train_the_student_only() -> None:
    method, batch = make("pseudoseg"), make_batch()
    batch.masks[:] = 255
    output = method(batch, PROGRESS)
    output.loss.backward()
    assert output.scalars["loss/auxiliary"] == 0 < output.scalars["loss/unsupervised"]
    assert gradients(method.student).any() and not gradients(method.sgc).any()
    assert not method.label(as_float(batch.unlabeled_images), batch.unlabeled_valid).requires_grad


def test_both_branches_learn_labels_in_the_burn_in() -> None:
    method, batch = make("pseudoseg", burn_in=0.6), make_batch()
    method.label = lambda *_: pytest.fail("labels in the burn-in")
    output = method(Batch(**vars(batch) | {"unlabeled_images": torch.empty(0, 3, 16, 16)}), PROGRESS)
    output.loss.backward()
    assert set(output.scalars) == {"loss/supervised", "loss/auxiliary"}
    for part in (method.student, *method.sgc.children()):
        assert gradients(part).any()


# The unsupervised loss.


@pytest.mark.parametrize("threshold", [0.0, 0.65])
def test_cutout_and_padding_have_no_loss(monkeypatch: pytest.MonkeyPatch, threshold: float) -> None:
    method, batch = make("pseudoseg", threshold=threshold).eval(), make_batch(unlabeled=1)
    batch.unlabeled_valid[:, :4] = False
    cut = torch.zeros_like(batch.unlabeled_valid)
    cut[:, :, 10:] = True
    p = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1).repeat(1, 1, 16, 16)
    p[:, :, 8:] = torch.tensor([0.2, 0.1, 0.7]).view(1, 3, 1, 1)
    monkeypatch.setattr(module, "color_jitter", lambda images, strength: 1 - images)
    monkeypatch.setattr(module, "cutout", lambda images, share: (images * 0.5, cut))
    method.label = lambda *_: p
    output = method(batch, PROGRESS)

    log_s = method.student((1 - as_float(batch.unlabeled_images)) * 0.5).log_softmax(dim=1)
    per_pixel = -(p**2 / (p**2).sum(dim=1, keepdim=True) * log_s).sum(dim=1)
    kept = per_pixel[:, 8:, :10] if threshold else per_pixel[:, 4:, :10]  # fused confidence, before sharpening
    torch.testing.assert_close(output.scalars["loss/unsupervised"], kept.sum().detach() / (12 * 10))
    assert output.scalars["trusted_fraction"].item() == pytest.approx(8 / 12 if threshold else 1)


def test_labels_come_from_both_branches_on_the_weak_view() -> None:
    method, batch = make("pseudoseg", known_share=1.0).eval(), make_batch()
    x_w = as_float(batch.unlabeled_images)
    z_2, _ = method.sgc(method.student.encode(x_w), batch.unlabeled_valid)
    p = method.label(x_w, batch.unlabeled_valid)
    torch.testing.assert_close(p, fuse(method.student(x_w), z_2, batch.unlabeled_valid))
    torch.testing.assert_close(p.sum(dim=1), torch.ones(2, 16, 16))


def test_labels_do_not_depend_on_padding() -> None:
    sgc, deepest = branch().eval(), torch.randn(2, 4, 6, 6)
    valid = everywhere(features_of(deepest))
    valid[0, 4:], valid[1] = False, False
    other = torch.where(valid[:, None], deepest, 9.0)
    (z, s), (z_other, s_other) = (sgc(features_of(f), valid) for f in (deepest, other))
    torch.testing.assert_close(s, s_other)
    torch.testing.assert_close(z[0, :, :4], z_other[0, :, :4])
    assert z.isfinite().all()


# Networks and numbers of classes.


@pytest.mark.parametrize(
    ("architecture", "encoder", "side"),
    [("deeplabv3plus-separable", "tf_efficientnet_lite0", 40), ("segformer", "mit_b0", 64)],
)
def test_a_step_on_real_networks(architecture: str, encoder: str, side: int) -> None:
    torch.manual_seed(0)
    method = METHODS["pseudoseg"](
        lambda: build(architecture, encoder, 4, weights="none"), 4, PseudoSegOptions(background=0)
    ).train()
    output = method(make_batch(classes=4, side=side), PROGRESS)
    output.loss.backward()
    assert all(value.isfinite() for value in (output.loss, *output.scalars.values()))
    assert output.scalars["loss/unsupervised"] > 0
    without = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize("classes", [2, 21])
def test_background_and_few_or_many_classes(classes: int) -> None:
    method, batch = make("pseudoseg", classes, background=0), make_batch(classes, unlabeled=1)
    for masks in (batch.masks, 0 * batch.masks, 0 * batch.masks + 255):  # many classes, background only, no labels
        output = method(Batch(**vars(batch) | {"masks": masks}), PROGRESS)
        assert output.loss.isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"background": 3}, "--background: 3 is out of range. Choose -1, or"),
        ({"background": -2}, "--background: -2 is out of range"),
        ({"attention_side": 1}, "--attention-side: 1 is out of range. Choose a value of at least 2"),
        ({"attention_channels": 0}, "--attention-channels: 0 is out of range. Choose a value of at least 1"),
        ({"cutout": 1.5}, r"--cutout: 1\.5 is out of range. Choose a value in \[0, 1\]"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("pseudoseg", **options)
    with pytest.raises(ValueError, match=r"--background: 0 is out of range"):
        make("pseudoseg", 1, background=0)
