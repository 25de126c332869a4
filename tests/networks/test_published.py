"""Published networks: parameter counts, reference outputs of the releases, and the mapping of their checkpoints.

The reference outputs are in a folder outside the repository, ``$SEMISEG_GOLDEN`` or ``../shared/golden``. A narrow
network, with its forward pass written out in this file, covers the mapping without that folder.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import semiseg
from semiseg.config import TrainConfig
from semiseg.data.benchmarks.class_lists import classes_of_benchmark
from semiseg.data.benchmarks.voc import CLASSES
from semiseg.data.splits.dataset_split import Split
from semiseg.errors import UserError
from semiseg.methods import METHODS
from semiseg.networks import NetworkOptions, build, published
from semiseg.networks.published import read_published
from semiseg.training.initial_network import initial_notes, initialize, read_initial_network
from semiseg.training.resolve_config import resolve
from trees import make_voc

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE, TOLERANCE_OF_DINOV2 = 1e-5, 1e-4
"""The release of DINOv2 differs by 1e-5 between 1 and 2 threads."""
SIZES = {
    "unimatch_v1_resnet50": {"64x96": 3, "65x81": 3, "321x337": 2},
    "gta_seg_resnet101": {"64x96": 2, "65x81": 2, "321x337": 2},
    "unimatch_v2_dinov2_small": {"70x98": 3, "70x98-comp_drop-batch4": 1, "518x518": 2},
}
"""The files of each network, and the number of outputs in each."""


def load_script() -> ModuleType:
    """Return benchmarks/published_networks.py, which fills and compares networks."""
    path = ROOT / "benchmarks" / "published_networks.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def golden_folder() -> Path:
    """Return the folder of reference outputs, or skip the test."""
    path = Path(os.environ.get("SEMISEG_GOLDEN") or ROOT.parent / "shared" / "golden")
    if not path.is_dir():
        pytest.skip(f"no reference outputs at {path}; set SEMISEG_GOLDEN to their folder")
    return path


def golden_case(name: str, large: bool) -> Any:
    """Return the parameters of a comparison; the larger images and ResNet-101 take too long for every run."""
    return pytest.param(name, large, marks=[pytest.mark.long if large or "101" in name else pytest.mark.slow])


@pytest.mark.parametrize(
    ("name", "large"), [golden_case(name, large) for name in script.ENTRIES for large in (False, True)]
)
def test_logits_equal_those_of_the_release(name: str, large: bool) -> None:
    folder, entry = golden_folder(), script.ENTRIES[name]
    state = script.fill_network(folder, name)
    found, network = script.load_published({entry: {f"module.{key}": value for key, value in state.items()}})
    assert found.entry == entry
    for size, outputs in SIZES[name].items():
        if (size in ("321x337", "518x518")) == large:
            file = np.load(folder / f"{name}-{size}.npz")
            assert script.checksum(state) == int(file["state_crc32"])
            differences = script.differences(network, file)
            assert len(differences) == outputs
            assert max(differences.values()) < (TOLERANCE_OF_DINOV2 if "dinov2" in name else TOLERANCE), (
                size,
                differences,
            )


@pytest.mark.parametrize(("architecture", "encoder", "options", "millions", "source"), script.COUNTS)
def test_parameters_equal_the_published_number(
    architecture: str, encoder: str, options: NetworkOptions, millions: float, source: str
) -> None:
    unused = script.DINOV2_UNUSED if architecture == "dpt" else 0
    digits = len(str(millions).partition(".")[2])
    assert round((script.count(architecture, encoder, options) + unused) / 1e6, digits) == millions


# Narrow networks: the state dict has the names of the release, and its decoder is written out with plain functions.

IMAGES = torch.from_numpy(np.random.default_rng(0).random((2, 3, 65, 81)).astype(np.float32))
Shapes = dict[str, tuple[int, ...]]


def norm(name: str, channels: int) -> Shapes:
    return {f"{name}.{last}": (channels,) for last in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def conv(name: str, inputs: int, outputs: int, size: int, bias: bool = False) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, size, size)} | ({f"{name}.bias": (outputs,)} if bias else {})


def narrow_unimatch(inputs: int, low: int) -> Shapes:
    shapes = {f"classifier.{last}": shape for last, shape in (("weight", (21, 256, 1, 1)), ("bias", (21,)))}
    for branch, size in enumerate((1, 3, 3, 3)):
        shapes |= conv(f"head.b{branch}.0", inputs, 256, size) | norm(f"head.b{branch}.1", 256)
    shapes |= conv("head.b4.gap.1", inputs, 256, 1) | norm("head.b4.gap.2", 256)
    shapes |= conv("head.project.0", 1280, 256, 1) | norm("head.project.1", 256)
    shapes |= conv("reduce.0", low, 48, 1) | norm("reduce.1", 48)
    return (
        shapes | conv("fuse.0", 304, 256, 3) | norm("fuse.1", 256) | conv("fuse.3", 256, 256, 3) | norm("fuse.4", 256)
    )


def narrow_u2pl(inputs: int, low: int, augseg: bool) -> Shapes:
    reduced, size, first, second, last = (48, 1, 0, 3, 6) if augseg else (256, 3, 0, 4, 8)
    shapes = conv("decoder.low_conv.0", low, reduced, 1, bias=True) | norm("decoder.low_conv.1", reduced)
    shapes |= conv("decoder.aspp.conv1.1", inputs, 256, 1) | norm("decoder.aspp.conv1.2", 256)
    for branch, side in enumerate((1, 3, 3, 3), start=2):
        shapes |= conv(f"decoder.aspp.conv{branch}.0", inputs, 256, side) | norm(f"decoder.aspp.conv{branch}.1", 256)
    shapes |= conv("decoder.head.0", 1280, 256, size) | norm("decoder.head.1", 256)
    for index, channels in ((first, 256 + reduced), (second, 256)):
        shapes |= conv(f"decoder.classifier.{index}", channels, 256, 3, bias=not augseg)
        shapes |= norm(f"decoder.classifier.{index + 1}", 256)
    return shapes | conv(f"decoder.classifier.{last}", 256, 21, 1, bias=True)


class Plain:
    """Layers by the names of a state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def conv(self, x: Tensor, name: str, dilation: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), padding=padding, dilation=dilation)

    def layer(self, x: Tensor, name: str, second: str, dilation: int = 1) -> Tensor:
        mean, variance, weight, bias = (
            self.state[f"{second}.{last}"] for last in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(self.conv(x, name, dilation), mean, variance, weight, bias).relu()


def resized(x: Tensor, size: Any) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def decode_unimatch(net: Plain, low: Tensor, deep: Tensor) -> Tensor:
    branches = [net.layer(deep, f"head.b{i}.0", f"head.b{i}.1", rate) for i, rate in enumerate((1, 6, 12, 18))]
    pooled = net.layer(deep.mean((2, 3), keepdim=True), "head.b4.gap.1", "head.b4.gap.2")
    context = net.layer(torch.cat([*branches, resized(pooled, deep.shape[2:])], 1), "head.project.0", "head.project.1")
    low = net.layer(low, "reduce.0", "reduce.1")
    fused = net.layer(torch.cat([low, resized(context, low.shape[2:])], 1), "fuse.0", "fuse.1")
    return net.conv(net.layer(fused, "fuse.3", "fuse.4"), "classifier")


def decode_u2pl(net: Plain, low: Tensor, deep: Tensor, rates: tuple[int, ...], second: int, last: int) -> Tensor:
    pooled = net.layer(deep.mean((2, 3), keepdim=True), "decoder.aspp.conv1.1", "decoder.aspp.conv1.2")
    names = [f"decoder.aspp.conv{i}" for i in range(2, 6)]
    branches = [net.layer(deep, f"{name}.0", f"{name}.1", r) for name, r in zip(names, (1, *rates), strict=True)]
    context = torch.cat([resized(pooled, deep.shape[2:]), *branches], 1)
    context = net.layer(context, "decoder.head.0", "decoder.head.1")
    low = net.layer(low, "decoder.low_conv.0", "decoder.low_conv.1")
    fused = torch.cat([low, resized(context, low.shape[2:])], 1)
    for index in (0, second):
        fused = net.layer(fused, f"decoder.classifier.{index}", f"decoder.classifier.{index + 1}")
    return net.conv(fused, f"decoder.classifier.{last}")


def narrow_case(release: str) -> tuple[dict[str, Tensor], Tensor]:
    """Return the checkpoint of a narrow network, and its logits for ``IMAGES`` by plain functions."""
    stride = 8 if release == "u2pl" else 16
    encoder = timm.create_model("test_resnet", features_only=True, output_stride=stride).eval()
    prefix = "backbone" if release == "unimatch" else "encoder"
    state = {
        f"{prefix}.{key}": script.fill(f"{prefix}.{key}", tuple(value.shape), str(value.dtype)[6:])
        for key, value in encoder.state_dict().items()
    }
    encoder.load_state_dict({key.removeprefix(f"{prefix}."): value for key, value in state.items()})
    if release != "unimatch":
        encoder.maxpool.ceil_mode = True
        for module in encoder.layer4.modules():
            if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
                module.dilation = module.padding = (2 * module.dilation[0],) * 2  # the first factor of the multi-grid
    channels = encoder.feature_info.channels()
    inputs, low = channels[-1], channels[1]
    shapes = narrow_unimatch(inputs, low) if release == "unimatch" else narrow_u2pl(inputs, low, release == "augseg")
    state |= {key: script.fill(key, shape, "float32" if shape else "int64") for key, shape in shapes.items()}
    maps = encoder((IMAGES - 0.5) / 0.5)  # the statistics of test_resnet
    if release == "unimatch":
        logits = decode_unimatch(Plain(state), maps[1], maps[-1])
    elif release == "augseg":
        logits = decode_u2pl(Plain(state), maps[1], maps[-1], (6, 12, 18), 3, 6)
    else:
        logits = decode_u2pl(Plain(state), maps[1], maps[-1], (12, 24, 36), 4, 8)
    return state, resized(logits, IMAGES.shape[2:])


@torch.no_grad()
@pytest.mark.parametrize("release", ["unimatch", "u2pl", "augseg"])
def test_narrow_checkpoint_gives_the_logits_of_plain_functions(
    release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "RESNETS", {1: "test_resnet"})
    state, expected = narrow_case(release)
    entry = "model" if release == "unimatch" else "teacher_state"
    others = {"epoch": 3, "previous_best": np.float64(71.5), "optimizer": {"state": {}}, "model_state": {}}
    torch.save(others | {entry: {f"module.{key}": value for key, value in state.items()}}, tmp_path / "best.pth")
    model = semiseg.load(tmp_path / "best.pth", accelerator="cpu")
    torch.testing.assert_close(model.networks["student"](IMAGES), expected, rtol=0, atol=1e-5)
    assert model.published.startswith("network of ") and f"weights of {entry}" in model.published
    assert model.classes == CLASSES and model.config.method == "supervised"


def transformer_shapes() -> Shapes:
    shapes: Shapes = {"backbone.cls_token": (1, 1, 64), "backbone.pos_embed": (1, 101, 64)}
    shapes |= conv("backbone.patch_embed.proj", 3, 64, 16, bias=True)
    linear = {"attn.qkv": (192, 64), "attn.proj": (64, 64), "mlp.fc1": (192, 64), "mlp.fc2": (64, 192)}
    for block in (f"backbone.blocks.{index}" for index in range(6)):
        shapes |= {f"{block}.{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"{block}.{name}.bias": shape[:1] for name, shape in linear.items()}
        shapes |= {f"{block}.{name}.{last}": (64,) for name in ("norm1", "norm2") for last in ("weight", "bias")}
    shapes |= {"backbone.norm.weight": (64,), "backbone.norm.bias": (64,)}
    for level, width in enumerate((8, 16, 32, 64)):
        shapes |= conv(f"head.projects.{level}", 64, width, 1, bias=True)
        shapes |= conv(f"head.scratch.layer{level + 1}_rn", width, 64, 3)
        unit = f"head.scratch.refinenet{level + 1}"
        for name in ("resConfUnit1", "resConfUnit2")[level == 3 :]:
            shapes |= conv(f"{unit}.{name}.conv1", 64, 64, 3, bias=True) | conv(
                f"{unit}.{name}.conv2", 64, 64, 3, bias=True
            )
        shapes |= conv(f"{unit}.out_conv", 64, 64, 1, bias=True)
    shapes |= conv("head.resize_layers.0", 8, 8, 4, bias=True) | conv("head.resize_layers.1", 16, 16, 2, bias=True)
    shapes |= conv("head.resize_layers.3", 64, 64, 3, bias=True)
    shapes |= conv("head.scratch.output_conv.0", 64, 64, 3, bias=True)
    return shapes | conv("head.scratch.output_conv.2", 64, 21, 1, bias=True)


def token_maps(state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """Return the normalized tokens after blocks 0, 2, 3 and 5 as maps ``(N, 64, h, w)``."""

    def layer(x: Tensor, name: str) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(x, (64,), weight, bias, eps=1e-6) if weight.ndim == 1 else F.linear(x, weight, bias)

    weight, bias = (state[f"backbone.patch_embed.proj.{last}"] for last in ("weight", "bias"))
    patches = F.conv2d(images, weight, bias, stride=16)
    height, width = patches.shape[2:]
    positions = state["backbone.pos_embed"]
    grid = positions[:, 1:].view(1, 10, 10, 64).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=((height + 0.1) / 10, (width + 0.1) / 10), mode="bicubic")
    first = (state["backbone.cls_token"] + positions[:, :1]).expand(len(images), -1, -1)
    x, maps = torch.cat([first, (patches + grid).flatten(2).transpose(1, 2)], 1), []
    for index in range(6):
        block = f"backbone.blocks.{index}"
        query, key, value = (
            layer(layer(x, f"{block}.norm1"), f"{block}.attn.qkv").view(len(x), -1, 3, 2, 32).permute(2, 0, 3, 1, 4)
        )
        attention = (query @ key.transpose(-1, -2) / 32**0.5).softmax(-1) @ value
        x = x + layer(attention.transpose(1, 2).flatten(2), f"{block}.attn.proj")
        x = x + layer(F.gelu(layer(layer(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
        if index in (0, 2, 3, 5):
            tokens = layer(x, "backbone.norm")[:, 1:]
            maps.append(tokens.transpose(1, 2).unflatten(2, (height, width)))
    return maps


def narrow_transformer() -> tuple[dict[str, Tensor], Tensor]:
    """Return the state dict of a narrow DPT, and its logits for ``IMAGES`` by plain functions."""
    state = {key: script.fill(key, shape) for key, shape in transformer_shapes().items()}
    net, maps = Plain(state), token_maps(state, resized(IMAGES, (64, 80)))  # the nearest multiples of the patch, 16
    maps = [net.conv(x, f"head.projects.{level}") for level, x in enumerate(maps)]
    for level, stride in ((0, 4), (1, 2)):
        weight, bias = (state[f"head.resize_layers.{level}.{last}"] for last in ("weight", "bias"))
        maps[level] = F.conv_transpose2d(maps[level], weight, bias, stride=stride)
    maps[3] = net.conv(maps[3], "head.resize_layers.3")[..., ::2, ::2]
    maps = [net.conv(x, f"head.scratch.layer{level + 1}_rn") for level, x in enumerate(maps)]

    def unit(x: Tensor, name: str) -> Tensor:
        return x + net.conv(net.conv(x.relu(), f"{name}.conv1").relu(), f"{name}.conv2")

    fused = torch.zeros(())
    for level in (3, 2, 1, 0):
        name = f"head.scratch.refinenet{level + 1}"
        fused = maps[3] if level == 3 else fused + unit(maps[level], f"{name}.resConfUnit1")
        size = maps[level - 1].shape[2:] if level else (32, 40)  # 8 per patch
        fused = net.conv(resized(unit(fused, f"{name}.resConfUnit2"), size), f"{name}.out_conv")
    logits = net.conv(net.conv(fused, "head.scratch.output_conv.0").relu(), "head.scratch.output_conv.2")
    return state, resized(resized(logits, (64, 80)), IMAGES.shape[2:])


@torch.no_grad()
def test_narrow_vision_transformer_gives_the_logits_of_plain_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "DINOV2", {64: "test_vit"})
    state, expected = narrow_transformer()
    unused = {
        "backbone.mask_token": torch.zeros(1, 64),
        "head.scratch.refinenet4.resConfUnit1.conv1.bias": torch.zeros(64),
    }
    found = read_published({"model": {}, "model_ema": state | unused})
    assert found is not None and found.entry == "model_ema"
    assert found.left_out == ("backbone.mask_token", "head.scratch.refinenet4.resConfUnit1")
    network = build(found.architecture, found.encoder, found.classes, "none", options=found.options).eval()
    network.load_state_dict(found.weights)
    network.mean.zero_()
    network.std.fill_(1)
    torch.testing.assert_close(network(IMAGES), expected, rtol=0, atol=1e-5)


@pytest.fixture
def narrow_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Tensor]]:
    """A narrow checkpoint of UniMatch and its state dict."""
    monkeypatch.setattr(published, "RESNETS", {1: "test_resnet"})
    with torch.no_grad():
        state = narrow_case("unimatch")[0]
    torch.save({"model": state}, tmp_path / "best.pth")
    return tmp_path / "best.pth", state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state.pop("fuse.3.weight"),
            "best.pth: is a network of UniMatch, but lacks decoder.fuse.1.0.weight",
        ),
        (lambda state: state.update(extra=torch.ones(1)), "has an unknown entry extra"),
        (
            lambda state: state.update({"reduce.0.weight": torch.ones(48, 5, 1, 1)}),
            r"\(48, 5, 1, 1\) instead of \(48, 32",
        ),
        (
            lambda state: state.update({key: state[key][:7] for key in ("classifier.weight", "classifier.bias")}),
            r"with 7 outputs. Use one for VOC 2012 \(21\)",
        ),
        (
            lambda state: state.update({"fuse.0.weight": torch.ones(1).expand(10**9, 304, 10**6)}),
            "decoder.fuse.0.0.weight has shape",
        ),
        (
            lambda state: state.update({"reduce.0.weight": state["reduce.0.weight"].int()}),
            "decoder.skip.0.weight has type int32",
        ),
        (lambda state: state.update({"classifier.weight": torch.ones(())}), "is a network of UniMatch, but len"),
        (lambda state: state.pop("reduce.0.weight"), "best.pth: not a checkpoint of semiseg"),
    ],
)
def test_incomplete_published_checkpoints_are_refused(
    change: Any, message: str, narrow_file: tuple[Path, dict[str, Tensor]]
) -> None:
    path, state = narrow_file
    change(state)
    torch.save({"model": state}, path)
    with pytest.raises(UserError, match=message):
        semiseg.load(path, accelerator="cpu")


def test_a_network_with_other_options_is_reported(narrow_file: tuple[Path, dict[str, Tensor]]) -> None:
    initial, nothing = read_initial_network(narrow_file[0]), Split((), (), (), ())
    notes = initial_notes(initial, CLASSES, nothing, TrainConfig(architecture="deeplabv3plus", encoder="test_resnet"))
    assert notes[1:] == ["warning: init: its network has align_corners True, that of this run False"]
    assert len(initial_notes(initial, CLASSES, nothing, initial.config)) == 1


def test_published_checkpoints_run_no_code(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Conv2d(1, 1, 1)}, tmp_path / "best.pth")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        semiseg.load(tmp_path / "best.pth")


@pytest.mark.parametrize(
    ("outputs", "name", "third"), [(19, "Cityscapes", "building"), (150, "ADE20K", "sky"), (81, "COCO", "bicycle")]
)
def test_outputs_select_the_classes_of_a_benchmark(outputs: int, name: str, third: str) -> None:
    benchmark = classes_of_benchmark(outputs)
    assert benchmark is not None and benchmark[0] == name and benchmark[1][2] == third
    assert len(set(benchmark[1])) == len(benchmark[2]) == outputs


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_published_checkpoint_evaluates_predicts_exports_and_fine_tunes(
    narrow_file: tuple[Path, dict[str, Tensor]], tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, state = narrow_file
    voc = make_voc(tmp_path / "voc")
    result = semiseg.evaluate(path, voc, "val", accelerator="cpu")
    assert list(result["iou"]) == list(CLASSES) and result["network"] == "student"
    assert (
        "network of UniMatch, deeplabv3plus with test_resnet, weights of model; 21 outputs" in capsys.readouterr().err
    )
    images = sorted((tiny_folder / "images").glob("*"))[:1]
    (mask,) = semiseg.predict(path, images, tmp_path / "masks", accelerator="cpu")
    expected = semiseg.load(path, accelerator="cpu")(images[0]).mask
    assert np.array_equal(np.asarray(Image.open(mask)), expected.numpy())
    folder, difference = semiseg.export(path, out=tmp_path / "export")
    assert difference == 0 and torch.equal(semiseg.load(folder, accelerator="cpu")(images[0]).mask, expected)
    options = {"method": "supervised", "steps": 1, "crop_size": 32, "batch_size": 2, "workers": 0, "lr": 1e-9}
    run = semiseg.train(tiny_folder, out=tmp_path / "run", init=str(path), accelerator="cpu", **options)
    model = semiseg.load(run, accelerator="cpu")
    assert model.config.align_corners and (model.config.architecture, model.config.encoder) == (
        "deeplabv3plus",
        "test_resnet",
    )
    assert len(model.classes) == 7
    start = state["backbone.layer1.0.conv1.weight"]
    torch.testing.assert_close(model.networks["student"].encoder.model.layer1[0].conv1.weight, start)
    assert "init: encoder and decoder of network of UniMatch" in (run / "log.txt").read_text()


DPT_OF_0_1 = [
    [-1.901792, -3.013081, -2.238651, -2.444886, -2.972697],
    [-0.320064, 0.138984, -1.246071, -1.544501, -1.256871],
    [0.579382, 0.132736, -0.735325, -0.520622, 0.414791],
]
"""Logits of row 32 and every 20th column of the first of ``IMAGES``, from version 0.1.0 with weights by `fill`."""


@torch.no_grad()
def test_checkpoint_of_version_0_1_keeps_its_dpt(tmp_path: Path) -> None:
    network = build("dpt", "test_vit", 3, "none", options=NetworkOptions(version=1))
    weights = {k: script.fill(k, tuple(v.shape), str(v.dtype)[6:]) for k, v in network.state_dict().items()}
    state = {
        "format": 1,
        "step": 5,
        "best": {"miou": 1.0, "step": 5},
        "config": {"method": "supervised", "architecture": "dpt", "encoder": "test_vit", "weights": "none"},
        "classes": ["a", "b", "c"],
        "palette": [[0, 0, 0], [1, 1, 1], [2, 2, 2]],
        "method": {"class_weights": torch.ones(3)} | {f"student.{key}": value for key, value in weights.items()},
    }
    torch.save(state, tmp_path / "best.pt")
    model = semiseg.load(tmp_path / "best.pt", accelerator="cpu")
    assert model.networks["student"].stride == 32 and not model.published
    logits = model.networks["student"](IMAGES[:1])[0, :, 32, ::20]
    torch.testing.assert_close(logits, torch.tensor(DPT_OF_0_1), rtol=0, atol=1e-4)
    config, _ = resolve({"init": str(tmp_path / "best.pt")})
    assert (config.architecture, config.encoder, config.network_version) == ("dpt", "test_vit", 1)
    current = METHODS["supervised"](lambda: build("dpt", "test_vit", 3, "none"), 3, METHODS["supervised"].Options())
    with pytest.raises(UserError, match="its network does not fit"):
        initialize(current, read_initial_network(tmp_path / "best.pt"), ("a", "b", "c"))


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 5), (10, 10), (10, 3), (17, 30)])
def test_exported_positions_equal_those_of_pytorch(size: tuple[int, int]) -> None:
    model = build("dpt", "test_vit", 3, "none").encoder.model
    model.pos_embed.copy_(script.fill("pos_embed", tuple(model.pos_embed.shape)))
    torch.testing.assert_close(model._positions_of_any_size(*size), model._positions(*size), rtol=0, atol=1e-6)
