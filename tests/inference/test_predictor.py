"""Prediction of images, and evaluation of several networks in one pass."""

import math

import pytest
import torch
from torch import nn

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.preview_selection import evenly_spaced
from semiseg.errors import UserError
from semiseg.inference import (
    TEACHERS_AVERAGE,
    ConfusionMatrix,
    Predictor,
    evaluate_networks,
    parameter_distance,
)
from semiseg.inference.folded_network import FoldedConv2d, fold
from semiseg.inference.predictor import window_starts
from semiseg.networks import build


class Pointwise(nn.Module):
    """Process each pixel separately, so that windows make no difference; record the input sizes."""

    def __init__(self, classes=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, classes, 1)
        self.norm = nn.BatchNorm2d(classes)
        self.seen = []

    def forward(self, images):
        assert not self.training
        self.seen.append(tuple(images.shape))
        return 8 * self.norm(self.layer(images))


class Contextual(Pointwise):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 5, padding=2)


class Images(SegmentationDataset):
    """Three small images with masks."""

    classes = ("a", "b", "c")
    palette = ((0, 0, 0), (255, 0, 0), (0, 0, 255))

    def __init__(self, count=3, size=(12, 17)):
        draw = torch.Generator().manual_seed(1)
        self.images = {
            str(i): torch.randint(0, 256, (3, *size), generator=draw, dtype=torch.uint8) for i in range(count)
        }
        self.masks = {str(i): torch.randint(0, 3, size, generator=draw, dtype=torch.uint8) for i in range(count)}
        self.masks["0"][:3] = 255
        self.ids = tuple(self.images)
        self.read = []

    def read_image(self, id):
        self.read.append(id)
        return self.images[id]

    def read_mask(self, id):
        return self.masks[id]

    def has_mask(self, id):
        return id in self.masks


def image(height=23, width=31):
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("mode", ["whole", "slide"])
@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7])
@pytest.mark.parametrize("size", [(23, 31), (1, 9), (8, 8)])
def test_predictions_have_the_size_of_the_image_and_probabilities_sum_to_one(mode, scale, size):
    predictor = Predictor(Pointwise(), mode=mode, crop_size=8, image_scale=scale)
    probabilities = predictor.probabilities(image(*size))
    assert probabilities.shape == (3, *size)
    assert torch.allclose(probabilities.sum(0), torch.ones(size), atol=1e-5)
    mask, confidence = predictor(image(*size))
    assert mask.dtype == torch.uint8 and mask.shape == confidence.shape == size
    assert torch.equal(mask.long(), probabilities.argmax(0))
    assert torch.equal(confidence, probabilities.amax(0))


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_one_window_equals_the_whole_image(scale):
    network = Contextual()
    whole = Predictor(network, image_scale=scale).probabilities(image())
    assert torch.allclose(whole, Predictor(network, "slide", 64, scale).probabilities(image()), atol=1e-6)


def test_windows_equal_the_whole_image_without_context():
    whole = Predictor(Pointwise()).probabilities(image())
    assert torch.allclose(whole, Predictor(Pointwise(), "slide", 7).probabilities(image()), atol=1e-6)


def test_overlapping_windows_average_probabilities():
    network = Contextual().eval()
    picture = image(6, 9)
    with torch.no_grad():
        parts = [network(picture[None, :, :, left : left + 6].float() / 255).softmax(1)[0] for left in (0, 3)]
    result = Predictor(network, "slide", 6).probabilities(picture)
    assert torch.allclose(result[..., :3], parts[0][..., :3], atol=1e-6)
    assert torch.allclose(result[..., 3:6], (parts[0][..., 3:] + parts[1][..., :3]) / 2, atol=1e-6)
    assert torch.allclose(result[..., 6:], parts[1][..., 3:], atol=1e-6)


@pytest.mark.parametrize("length", range(1, 40))
@pytest.mark.parametrize("window", [1, 2, 3, 8, 16])
def test_windows_cover_every_pixel_and_stay_inside(length, window):
    starts = window_starts(length, window)
    covered = {pixel for start in starts for pixel in range(start, min(start + window, length))}
    assert covered == set(range(length))
    assert max(starts) + window <= max(length, window)
    assert len(set(starts)) == len(starts)


def test_image_scale_resizes_the_network_input():
    network = Pointwise()
    Predictor(network, image_scale=0.5)(image(20, 30))
    assert network.seen == [(1, 3, 10, 15)]


def test_resizing_is_antialiased():
    stripes = torch.zeros(3, 16, 16, dtype=torch.uint8)
    stripes[:, :, 0] = 255

    class Brightness(nn.Module):
        def forward(self, images):
            return images[:, :2] * torch.tensor([1.0, 0.0])[:, None, None]

    left = Predictor(Brightness(), image_scale=0.25).probabilities(stripes)[0, 8, 0]
    assert 0.5 < float(left) < 0.7  # exactly 0.5 without antialiasing


def test_several_networks_average_their_probabilities():
    networks = [Pointwise(seed=0), Pointwise(seed=1)]
    mean = sum(Predictor(network).probabilities(image()) for network in networks) / 2
    assert torch.allclose(Predictor(networks).probabilities(image()), mean, atol=1e-6)


def test_the_mode_of_every_module_is_restored_even_after_an_error():
    network = Pointwise().train()
    network.norm.eval()
    Predictor(network)(image())
    assert network.training and network.layer.training and not network.norm.training
    with pytest.raises(RuntimeError):
        Predictor(nn.Sequential(network, nn.Conv2d(99, 1, 1)))(image())
    assert network.training and not network.norm.training


def test_prediction_changes_no_buffers_and_works_with_channels_last():
    network = Pointwise().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    expected = Predictor(network).probabilities(image())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    network = network.to(memory_format=torch.channels_last)
    assert torch.allclose(Predictor(network).probabilities(image()), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "tiles"}, "unknown mode"),
        ({"mode": "slide"}, "crop size"),
        ({"image_scale": 0.0}, "positive"),
    ],
)
def test_invalid_arguments_are_rejected(arguments, message):
    with pytest.raises(ValueError, match=message):
        Predictor(Pointwise(), **arguments)
    with pytest.raises(ValueError, match="uint8"):
        Predictor(Pointwise())(torch.rand(3, 4, 4))


def evaluate(networks, dataset, **options):
    return evaluate_networks(networks, dataset, options.pop("ids", dataset.ids), device="cpu", **options)


def test_evaluation_equals_the_predictor_on_each_image():
    dataset = Images()
    networks = {"student": Pointwise(seed=0), "teacher1": Pointwise(seed=1), "teacher2": Pointwise(seed=2)}
    result = evaluate(networks, dataset)
    assert dataset.read == list(dataset.ids)  # each image once, for all networks
    together = [networks["teacher1"], networks["teacher2"]]
    for name, network in {**networks, TEACHERS_AVERAGE: together}.items():
        expected = ConfusionMatrix(3)
        for id in dataset.ids:
            expected.update(Predictor(network)(dataset.images[id]).mask, dataset.masks[id])
        assert torch.equal(result.matrices[name].counts, expected.counts)


def test_disagreement_is_a_percentage_of_all_pixels():
    dataset = Images()
    networks = {"student": Pointwise(seed=0), "teacher1": Pointwise(seed=1), "same": Pointwise(seed=0)}
    disagreement = evaluate(networks, dataset).disagreement
    different = [
        Predictor(networks["student"])(dataset.images[id]).mask
        != Predictor(networks["teacher1"])(dataset.images[id]).mask
        for id in dataset.ids
    ]
    assert disagreement == {"teacher1": pytest.approx(100 * float(torch.stack(different).float().mean())), "same": 0}


def test_one_network_or_one_teacher_has_no_average():
    assert list(evaluate({"student": Pointwise()}, Images()).matrices) == ["student"]
    assert evaluate({"student": Pointwise()}, Images()).disagreement == {}
    assert TEACHERS_AVERAGE not in evaluate({"student": Pointwise(), "teacher1": Pointwise()}, Images()).matrices
    assert evaluate({"teacher1": Pointwise()}, Images()).disagreement == {}


@pytest.mark.parametrize("world_size", [2, 3, 4, 5, 8])  # also more processes than images
def test_ranks_together_count_every_image_once(world_size):
    networks = {"student": Pointwise(seed=0), "teacher1": Pointwise(seed=1), "teacher2": Pointwise(seed=2)}
    whole = evaluate(networks, Images())
    parts = [evaluate(networks, Images(), rank=rank, world_size=world_size) for rank in range(world_size)]
    own, sums = [[], []], []
    parts[0].reduce(lambda count: own[0].append(count) or count)  # record the reduced counts and their order
    for rank in range(1, world_size):
        other = []
        parts[rank].reduce(lambda count, other=other: other.append(count) or count)
        sums.append(other)
    totals = iter([sum(column[1:], column[0]) for column in zip(own[0], *sums, strict=True)])
    parts[0].reduce(lambda count: next(totals))
    assert all(torch.equal(parts[0].matrices[name].counts, whole.matrices[name].counts) for name in whole.matrices)
    assert parts[0].disagreement == whole.disagreement


def test_limit_selects_images_spread_over_the_list():
    assert evenly_spaced(range(10), 3) == [0, 3, 6]
    assert evenly_spaced(range(3), 9) == range(3)
    dataset = Images(9)
    evaluate({"student": Pointwise()}, dataset, limit=3)
    assert dataset.read == ["0", "3", "6"]


def test_missing_and_wrong_masks_are_reported():
    dataset = Images()
    dataset.masks["2"] = dataset.masks["2"][:5]
    with pytest.raises(UserError, match="2: the mask is 17x5, its image 2 is 17x12"):
        evaluate({"student": Pointwise()}, dataset)
    del dataset.masks["1"]
    with pytest.raises(UserError, match="image '1' has no mask"):
        evaluate({"student": Pointwise()}, dataset)


def test_parameter_distance():
    student, teacher = Pointwise(), Pointwise()
    assert parameter_distance(teacher, student) == 0
    teacher.norm.running_mean += 5  # buffers are ignored
    assert parameter_distance(teacher, student) == 0
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.5)
    assert parameter_distance(teacher, student) == pytest.approx(0.5)
    with torch.no_grad():
        teacher.layer.weight.add_(1)
    squares = [(a - b).square().sum() for a, b in zip(teacher.parameters(), student.parameters(), strict=True)]
    norms = [b.square().sum() for b in student.parameters()]
    assert parameter_distance(teacher, student) == pytest.approx(
        math.sqrt(float(sum(squares).detach() / sum(norms).detach()))
    )
    with pytest.raises(ValueError, match="same architecture"):
        parameter_distance(Pointwise(classes=4), student)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_the_largest_score_belongs_to_the_most_likely_class(count: int, mode: str, scale: float) -> None:
    image = torch.randint(0, 256, (3, 11, 14), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    predictor = Predictor([Contextual(), Pointwise(seed=4)][:count], mode, 6, scale)
    probabilities = predictor.probabilities(image)
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(11, 14))
    assert probabilities.argmax(dim=0).unique().numel() > 1
    assert (predictor.scores(image).max(dim=0).indices == probabilities.argmax(dim=0)).all()


# Folded networks.


@pytest.mark.parametrize(
    ("architecture", "encoder", "folded"),
    [("deeplabv3plus-separable", "tf_efficientnet_lite0", 57), ("deeplabv3plus", "resnet18", 27)],
)
def test_folded_network_has_the_same_logits(architecture: str, encoder: str, folded: int) -> None:
    torch.manual_seed(0)
    network = build(architecture, encoder, 5, "none").train()
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 64))  # statistics that differ from 0 and 1
    with torch.inference_mode():
        quick, images = fold(network), torch.rand(2, 3, 49, 70)
        torch.testing.assert_close(quick(images), network.eval()(images), atol=1e-4, rtol=1e-4)
    assert sum(isinstance(module, FoldedConv2d) for module in quick.modules()) >= folded
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_predictor_follows_changed_weights() -> None:
    network = build("deeplabv3plus-separable", "tf_efficientnet_lite0", 3, "none").train()
    predictor, image = Predictor(network), torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    before = predictor.scores(image)
    with torch.no_grad():
        network.head.bias += 1
    torch.testing.assert_close(predictor.scores(image), before + 1)
    assert network.training


def test_changed_weights_change_the_prediction() -> None:
    network = build("deeplabv3plus-separable", "tf_efficientnet_lite0", 3, weights="none").eval()
    predictor = Predictor(network)
    image = torch.randint(0, 256, (3, 48, 48), dtype=torch.uint8)
    before = predictor.probabilities(image)
    for weight in network.parameters():
        weight.data.mul_(0.5)  # not counted by autograd
    after = predictor.probabilities(image)
    assert not torch.allclose(before, after) and torch.equal(after, Predictor(network).probabilities(image))
