"""FixMatch, UniMatch and UniMatch V2: strong views, perturbed features, and the sums of their losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as plain_cross_entropy

from semiseg.methods import Progress
from semiseg.networks import build
from semiseg.ops.features import channel_dropout, complementary_dropout, decode, encode, feature_channels
from semiseg.ops.mixing import Region, fitting_box_region, half_box_region, occasional_box_region
from semiseg.ops.pseudo_labels import PseudoLabels
from semiseg.ops.strong_view import strong_view
from toy import Toy, gradients, make, make_batch

NOW = Progress(50, 100, 10)


@pytest.mark.parametrize("make_region", [occasional_box_region, fitting_box_region])
def test_every_second_strong_view_has_a_box_of_2_to_40_percent(make_region: Region) -> None:
    torch.manual_seed(0)
    region = make_region(torch.zeros(600, 40, 60))
    area = region.flatten(1).float().mean(dim=1)
    boxed = area > 0
    assert 0.44 < boxed.float().mean() < 0.56
    assert area[boxed].min() > 0.01 and area.max() < 0.42
    assert area[boxed].mean() == pytest.approx(0.2, abs=0.02)


def test_boxes_that_are_sampled_again_keep_their_area() -> None:
    torch.manual_seed(0)
    region = fitting_box_region(torch.zeros(300, 40, 40))
    tall, wide = region.any(dim=2).sum(dim=1), region.any(dim=1).sum(dim=1)
    boxed = tall > 0
    assert torch.equal(region.sum(dim=(1, 2)), tall * wide)
    assert ((tall / wide)[boxed] > 0.25).all() and ((tall / wide)[boxed] < 4).all()
    assert wide.max() < 40 and region[boxed].float().mean(dim=0).argmax() not in (0, 39)  # long boxes are rejected


def test_redraw_boxes_option_changes_the_strong_view() -> None:
    labels = torch.arange(4)[:, None, None].expand(4, 24, 24)
    views = []
    for redraw in (False, True):
        torch.manual_seed(1)
        weak = PseudoLabels(labels[:, None].repeat(1, 3, 1, 1).float(), labels, labels.float(), labels >= 0)
        views.append(strong_view(weak, 0.0, redraw).targets)
    assert not torch.equal(*views)


def test_half_boxes_cover_half_of_each_image_of_every_second_batch() -> None:
    torch.manual_seed(0)
    shares = torch.stack([half_box_region(torch.zeros(3, 50, 70)).float().mean(dim=(1, 2)) for _ in range(200)])
    mixed = shares.amax(dim=1) > 0
    assert 0.38 < mixed.float().mean() < 0.62
    assert ((shares[mixed] - 0.5).abs() < 0.03).all() and not shares[~mixed].any()


def test_strong_view_mixes_all_tensors_by_one_region() -> None:
    torch.manual_seed(1)
    n = 6
    index = torch.arange(n)
    labels = index[:, None, None].expand(n, 24, 24)
    confidence, valid = labels / 10, labels % 2 == 0
    images = (labels[:, None].expand(-1, 3, -1, -1) / 10).float()
    x, q, c, v = strong_view(PseudoLabels(images, labels, confidence, valid), color_strength=0.0)
    assert torch.equal(c, q / 10) and torch.equal(v, q % 2 == 0)
    torch.testing.assert_close(x, (q / 10)[:, None].expand_as(x).float(), atol=0.02, rtol=0)  # strength 0
    assert (q != labels).any()


def test_channel_dropout_drops_whole_channels_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    features = [torch.full((2, 3, 8, 8), 0.5), torch.ones(2, 1000, 4, 4)]
    image, dropped = channel_dropout(features, 0.5)
    assert torch.equal(image, features[0])
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropped.amin(dim=(2, 3)), dropped.amax(dim=(2, 3)))
    assert dropped.mean() == pytest.approx(1.0, abs=0.1)
    assert not torch.equal(dropped[0], dropped[1])
    assert torch.equal(channel_dropout(features, 0.0)[1], features[1])


def test_complementary_halves_add_up_to_twice_the_features() -> None:
    torch.manual_seed(0)
    features = [torch.zeros(40, 3, 4, 4), torch.rand(40, 64, 2, 2)]
    features[1] = torch.cat([features[1][:20]] * 2)  # the same image in both views
    dropped = complementary_dropout(features, whole=0.5)[1]
    torch.testing.assert_close(dropped[:20] + dropped[20:], 2 * features[1][:20])
    whole = [torch.equal(dropped[i], features[1][i]) for i in range(20)]
    assert 3 < sum(whole) < 17
    halved = dropped[:20][~torch.tensor(whole)]
    assert set((halved / features[1][:20][~torch.tensor(whole)]).round().unique().tolist()) == {0.0, 2.0}
    assert not torch.equal(complementary_dropout(features, whole=0.0)[1], features[1])
    assert torch.equal(complementary_dropout(features, whole=1.0)[1], features[1])


@pytest.mark.parametrize("architecture", ["deeplabv3plus-separable", "segformer"])
def test_every_network_encodes_and_decodes(architecture: str) -> None:
    encoder = {"segformer": "mit_b0"}.get(architecture, "tf_efficientnet_lite0")
    network = build(architecture, encoder, 4, weights="none").eval()
    images = torch.rand(2, 3, 70, 50)
    with torch.no_grad():
        features = encode(network, images)
        torch.testing.assert_close(decode(network, features, (70, 50)), network(images))
    assert [f.shape[1] for f in features] == feature_channels(network)
    assert not network.training


def fixed(method: object, logits: Tensor) -> None:
    """Set the logits ``(C,)`` of every pixel."""
    head = method.head  # type: ignore[attr-defined]
    torch.nn.init.zeros_(head.weight)
    head.bias.data = logits.clone()


def test_fixmatch_by_hand() -> None:
    """If the student predicts class 1 with probability p everywhere, L_u is its CE, and L = (L_x + lambda L_u) / 2."""
    method, batch = make("fixmatch", threshold=0.5, unsupervised_weight=2.0), make_batch()
    logits = torch.tensor([0.0, 2.0, 0.0])
    fixed(method.student, logits)
    output = method(batch, NOW)
    of = {k: float(plain_cross_entropy(logits[None], torch.tensor([k]))) for k in range(3)}
    sup = sum(of[k] * float((batch.masks == k).float().mean()) for k in range(3))
    assert output.scalars["loss/unsupervised"].item() == pytest.approx(of[1], rel=1e-5)
    assert output.scalars["trusted_fraction"] == 1
    assert output.loss.item() == pytest.approx((sup + 2 * of[1]) / 2, rel=1e-5)
    method = make("fixmatch", threshold=0.9)
    fixed(method.student, logits)
    assert method(batch, NOW).loss.item() == pytest.approx(sup / 2, rel=1e-5)  # p = 0.787 is not trusted


def test_unimatch_by_hand() -> None:
    method, batch = make("unimatch", threshold=0.5), make_batch()
    logits = torch.tensor([0.0, 2.0, 0.0])
    fixed(method.student, logits)
    output = method(batch, NOW)
    of_1 = float(plain_cross_entropy(logits[None], torch.tensor([1])))
    sup = output.scalars["loss/supervised"].item()
    assert output.scalars["loss/unsupervised"].item() == pytest.approx(of_1, rel=1e-5)
    assert output.scalars["loss/consistency"].item() == pytest.approx(of_1, rel=1e-5)
    assert output.loss.item() == pytest.approx((sup + 0.5 * of_1 + 0.5 * of_1) / 2, rel=1e-5)


def test_unimatch_without_dropout_compares_predictions_with_themselves() -> None:
    options = {"threshold": 0.0, "unsupervised_weight": 0.0, "feature_dropout": 0.0}
    method, batch = make("unimatch", **options).eval(), make_batch()
    output = method(batch, NOW)
    with torch.no_grad():
        z = method.student(batch.unlabeled_images.float() / 255)
    expected = float(plain_cross_entropy(z, z.argmax(dim=1)))
    assert output.scalars["loss/consistency"].item() == pytest.approx(expected, rel=1e-5)


def test_pseudo_labels_have_no_gradient() -> None:
    """Soft labels have no graph: the gradient of L_u is that of fixed labels."""
    method, batch = (
        make("unimatch", threshold_mode="none", label_temperature=1.0, feature_dropout=0.0).eval(),
        make_batch(),
    )
    method.options.__dict__["unsupervised_weight"] = 0.0
    torch.manual_seed(0)
    method(batch, NOW).loss.backward()
    reference = make("unimatch").eval()
    x_l, x_w = batch.labeled_images.float() / 255, batch.unlabeled_images.float() / 255
    z_w = reference.student(x_w)
    q = z_w.detach().softmax(dim=1)
    loss = (plain_cross_entropy(reference.student(x_l), batch.masks) + 0.5 * plain_cross_entropy(z_w, q)) / 2
    loss.backward()
    torch.testing.assert_close(gradients(method.student), gradients(reference.student), rtol=1e-4, atol=1e-6)


def test_the_two_strong_views_of_unimatch_differ() -> None:
    method, batch, seen = make("unimatch"), make_batch(), []
    method.student.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.manual_seed(3)
    method(batch, NOW)
    views = next(images for images in seen if len(images) == 4)
    assert not torch.equal(views[:2], views[2:])


def test_unimatch_v2_gives_its_views_complementary_channels() -> None:
    method, batch, seen = make("unimatch-v2", whole_pairs=0.0), make_batch(), []
    student = method.student
    assert isinstance(student, Toy)
    whole = student.decode

    def decoding(features: list[Tensor]) -> Tensor:
        seen.append(features[-1].detach())
        return whole(features)

    student.decode = decoding  # type: ignore[method-assign]
    method(batch, NOW)
    first, second = (seen[0][half].abs().sum(dim=(2, 3)) > 0 for half in (slice(0, 2), slice(2, 4)))
    assert not (first & second).any()  # no channel in both


@pytest.mark.parametrize("shared", [False, True])
def test_levels_share_one_channel_mask_only_if_asked(shared: bool) -> None:
    torch.manual_seed(0)
    levels = complementary_dropout([torch.ones(4, 3, 2, 2), *(torch.ones(4, 64, 1, 1) for _ in range(2))], 0.0, shared)
    assert torch.equal(levels[0], torch.ones(4, 3, 2, 2))
    assert all(torch.equal(level[:2] + level[2:], torch.full((2, 64, 1, 1), 2.0)) for level in levels[1:])
    assert torch.equal(levels[1], levels[2]) == shared


def test_unimatch_v2_uses_a_separate_pass_for_labeled_images() -> None:
    method, batch = make("unimatch-v2", threshold=1.0).eval(), make_batch()
    method(batch, NOW).loss.backward()
    reference = make("unimatch-v2").eval()
    (plain_cross_entropy(reference.student(batch.labeled_images.float() / 255), batch.masks) / 2).backward()
    torch.testing.assert_close(gradients(method.student), gradients(reference.student))
