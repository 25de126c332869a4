"""Networks and color changes for images of other than three channels."""

from __future__ import annotations

import pytest
import torch
from timm.models import adapt_input_conv

from semiseg.methods import METHODS, Progress
from semiseg.networks import build
from semiseg.ops.intensity import random_intensity
from semiseg.ops.photometric import color_jitter, cutout, photometric
from toy import make_batch


@pytest.mark.parametrize("channels", [1, 2, 5])
@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [("deeplabv3plus-separable", "tf_efficientnet_lite0"), ("segformer", "mit_b0"), ("dpt", "vit_tiny_patch16_224")],
)
def test_networks_take_any_number_of_channels(architecture: str, encoder: str, channels: int) -> None:
    network = build(architecture, encoder, 3, weights="none", channels=channels).eval()
    assert network.channels == channels and network.mean.numel() == channels
    with torch.no_grad():
        assert network(torch.rand(1, channels, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("name", METHODS)
def test_methods_take_images_of_five_channels(name: str) -> None:
    kind = METHODS[name]
    method = kind(lambda: build("deeplabv3plus", "test_resnet", 3, weights="none", channels=5), 3, kind.Options())
    batch = make_batch(side=32)
    batch.labeled_images, batch.unlabeled_images = (
        images[:, [0, 1, 2, 0, 1]] for images in (batch.labeled_images, batch.unlabeled_images)
    )
    assert method.train()(batch, Progress(90, 100, 10)).loss.isfinite()


def test_pretrained_weights_are_repeated_over_the_channels() -> None:
    rgb = build("deeplabv3plus-separable", "tf_efficientnet_lite0", 3)
    five = build("deeplabv3plus-separable", "tf_efficientnet_lite0", 3, channels=5)
    first, adapted = next(iter(rgb.encoder.parameters())), next(iter(five.encoder.parameters()))
    assert torch.equal(adapted, adapt_input_conv(5, first.detach()))
    rest = dict(rgb.encoder.named_parameters())
    same = [torch.equal(value, rest[name]) for name, value in five.encoder.named_parameters()]
    assert same.count(False) == 1


@pytest.mark.parametrize("channels", [1, 4])
def test_color_changes_keep_channels_and_range(channels: int) -> None:
    images = torch.rand(6, channels, 24, 24)
    for change in (photometric, color_jitter, random_intensity, lambda images: cutout(images, 0.5)[0]):
        torch.manual_seed(0)
        changed = change(images.clone())
        torch.manual_seed(0)
        assert torch.equal(changed, change(images.clone()))
        assert changed.shape == images.shape and not torch.equal(changed, images)
        assert changed.min() >= 0 and changed.max() <= 1
