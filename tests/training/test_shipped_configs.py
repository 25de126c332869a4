"""Every file in configs/ is documented, loads, builds its network and starts."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

import semiseg
from semiseg import cli
from semiseg.config import TrainConfig, read_yaml
from semiseg.data import open_dataset
from semiseg.data.splits.dataset_split import Split
from semiseg.methods import METHODS, VARIANTS
from semiseg.networks import build
from semiseg.training.build import planned_steps, steps_per_epoch
from semiseg.training.logging.metrics_log import read_metrics
from semiseg.training.resolve_config import complete, resolve
from trees import make_ade20k, make_cityscapes, make_voc

ROOT = Path(__file__).parents[2]
ALL = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").glob("*/*.yaml"))
FILES = [path for path in ALL if "\nmethods:" not in (ROOT / path).read_text()]  # comparisons: see test_config.py
PUBLISHED = [path for path in FILES if path.parent.name != "camvid"]
DATA: dict[str, tuple[Callable[[Path], Path], int]] = {
    "voc2012": (make_voc, 21),
    "cityscapes": (make_cityscapes, 19),
    "ade20k": (make_ade20k, 150),
}
# Options that shrink any configuration for a test.
SMALL = {"crop_size": 32, "batch_size": 2, "steps": 1, "workers": 0, "accelerator": "cpu", "weights": "none"}

pytestmark = pytest.mark.usefixtures("quick_module")


@cache
def resolved(path: Path) -> tuple[TrainConfig, Any]:
    """Return the options of a file: those of every run, and those of its method."""
    return resolve({}, file=str(ROOT / path))


def load(path: Path) -> TrainConfig:
    return resolved(path)[0]


def small_encoder(path: Path) -> str:
    return "test_vit" if load(path).architecture == "dpt" else "test_resnet"


@cache
def method_of(path: Path) -> str:
    """Return the method that a file names, which may be a variant."""
    return str(read_yaml(ROOT / path)["method"])


def kind(path: Path) -> tuple[str, str]:
    """Return folder and method: files of one kind differ in the encoder."""
    return path.parent.name, method_of(path)


ONE_OF_A_KIND = [path for index, path in enumerate(FILES) if kind(path) not in map(kind, FILES[:index])]
VOC_KINDS = [path for path in ONE_OF_A_KIND if path.parent.name == "voc2012"]


def comments(path: Path) -> str:
    return "\n".join(line for line in (ROOT / path).read_text().splitlines() if line.startswith("#"))


def test_every_published_data_set_has_configurations() -> None:
    assert {path.parent.name for path in PUBLISHED} == DATA.keys()
    names = {method_of(path) for path in PUBLISHED}
    assert names == METHODS.keys() | VARIANTS.keys()
    for encoder in ("resnet50", "resnet101"):
        for method in ("supervised", "mean-teacher", "dual-student", "dual-teacher"):
            assert Path(f"configs/voc2012/{method}-{encoder}.yaml") in FILES
            assert Path(f"configs/cityscapes/{method}-{encoder}.yaml") in FILES


def test_protocols_that_decide_the_published_figures() -> None:
    for path in PUBLISHED:
        config = load(path)
        if path.parent.name == "cityscapes":
            whole = method_of(path) in VARIANTS  # at half size
            assert (config.val_mode, config.val_limit) == ("whole" if whole else "slide", None), path
        if config.supervised_loss == "ohem":
            expected = {"augseg": 25_000}
            expected |= dict.fromkeys(("dual-student", "gentle-teaching-assistant", "u2pl"), 50_000)
            assert config.ohem_min_kept_per_image == expected.get(method_of(path), 100_000), path
        if config.encoder.startswith("resnet"):
            assert config.batchnorm == ("frozen-encoder" if method_of(path) == "cutmix-seg" else "sync"), path
        if method_of(path) == "dual-teacher":
            assert resolved(path)[1].pool == ("cutmix:blur", "classmix:gray"), path


@pytest.mark.parametrize(
    ("path", "labeled", "steps"),
    [
        ("configs/voc2012/supervised-resnet50.yaml", 92, 480),
        ("configs/ade20k/dual-teacher-mit_b1.yaml", 631, 15_800),
        ("configs/ade20k/dual-teacher-mit_b1.yaml", 1263, 31_600),
    ],
)
def test_published_number_of_steps(path: str, labeled: int, steps: int) -> None:
    config, split = load(Path(path)), Split(("",) * labeled, ("",) * (20_210 - labeled), (), ())
    assert planned_steps(config, steps_per_epoch(config, split)) == steps


@pytest.mark.parametrize("path", FILES, ids=str)
def test_configuration_loads_and_has_a_header(path: Path) -> None:
    config, first = load(path), (ROOT / path).read_text().splitlines()[0]
    assert first.startswith(f"# semiseg train --config {path.as_posix()} --data ")
    assert path.stem.startswith(method_of(path)) and config.data == path.parent.name
    assert "mIoU" in comments(path) and re.search("[Hh]ours", comments(path))


@pytest.mark.parametrize("path", PUBLISHED, ids=str)
def test_published_miou_has_a_source_or_is_declared_missing(path: Path) -> None:
    text = comments(path).replace("\n# ", " ")
    figure = text[text.index("mIoU") : text.index(" Hours")]
    name = path.stem.removeprefix(f"{method_of(path)}-")
    assert name.removesuffix("-513") == load(path).encoder.removesuffix("s")
    assert (
        re.search(r"\((UniMatch|AugSeg|CPS|Dual Teacher|RankMatch|CutMix-Seg|U2PL|tables of)[^)]*\)", figure)
        or "known to us" in figure
    )
    assert re.search(r"^# Settings: \S", (ROOT / path).read_text(), re.MULTILINE)


NETWORKS = {(load(path).architecture, load(path).encoder): DATA[path.parent.name][1] for path in PUBLISHED}


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "encoder", "classes"), [(*name, count) for name, count in NETWORKS.items()])
def test_network_is_built_from_scratch(architecture: str, encoder: str, classes: int) -> None:
    network = build(architecture, encoder, classes, "none")
    assert network.classes == classes
    if (encoder, classes) == ("resnet50s", 21):  # published tables give 43.6 M and 40.4 M
        assert 39e6 < sum(parameter.numel() for parameter in network.parameters()) < 44e6


@pytest.mark.slow
@pytest.mark.parametrize("path", ONE_OF_A_KIND, ids=str)
def test_configuration_starts(path: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """Take one step with all options, on small data of the same format, with a small encoder."""
    make = DATA[path.parent.name][0] if path in PUBLISHED else None
    data, labeled = (make(tmp_path / "data"), "2") if make else (tiny_folder, "4")
    options: dict[str, Any] = SMALL | {"encoder": small_encoder(path), "labeled": labeled, "val_every": "never"}
    run = semiseg.train(data, out=tmp_path / "run", config=str(ROOT / path), **options)
    assert len(read_metrics(run / "metrics.jsonl")) == 1
    expected = complete(replace(load(path), data=str(data), epochs=None, **options))
    assert resolve({}, file=str(run / "config.yaml"))[0] == expected


@pytest.mark.slow
@pytest.mark.parametrize("path", VOC_KINDS, ids=lambda path: path.stem)
def test_configuration_starts_on_voc_photographs(path: Path, voc_dir: Path, tmp_path: Path) -> None:
    """The data may have only some of the photographs."""
    options = SMALL | {"encoder": small_encoder(path), "labeled": "732", "val_limit": 1, "existing_only": True}
    run = semiseg.train(voc_dir, out=tmp_path / "run", config=str(ROOT / path), image_scale=0.1, **options)
    lines = read_metrics(run / "metrics.jsonl")
    assert lines[0]["loss/supervised"] > 0 and lines[1]["miou"] is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "encoder"),
    [
        ("supervised", "resnet50"),
        ("dual-teacher", "test_resnet"),
        pytest.param("dual-teacher", "resnet50", marks=pytest.mark.long),
    ],
)
def test_configuration_starts_on_voc_photographs_from_the_command_line(
    method: str,
    encoder: str,
    voc_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ["--labeled", "732", "--existing-only", "--weights", "none", "--crop-size", "33", "--batch-size", "2"]
    options += ["--image-scale", "0.1", "--steps", "1", "--workers", "0", "--accelerator", "cpu", "--val-limit", "1"]
    options += ["--encoder", encoder]
    config = ROOT / "configs" / "voc2012" / f"{method}-resnet50.yaml"
    arguments = ["train", "--config", str(config), "--data", str(voc_dir), "--out", str(tmp_path / "run"), *options]
    monkeypatch.setattr(sys, "argv", ["semiseg", *arguments])
    assert cli.main() == 0
    output = capsys.readouterr().err
    if len(open_dataset(voc_dir)) < 10582:
        assert re.search(r"labeled\.txt: \d+ of 732 images do not exist and are left out", output)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[0]["loss/supervised"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["resnet50s", "mit_b1"])
def test_encoder_loads_weights_from_a_local_file(encoder: str, tmp_path: Path) -> None:
    """Load state dicts of timm and segmentation-models-pytorch without downloads."""
    torch.manual_seed(3)
    made = timm.create_model(encoder) if timm.is_model(encoder) else smp.encoders.get_encoder(encoder, weights=None)
    torch.save(made.state_dict(), tmp_path / "weights.pth")
    path = next(path for path in PUBLISHED if load(path).encoder == encoder)
    network = build(load(path).architecture, encoder, 5, str(tmp_path / "weights.pth"))
    theirs = {name.replace(".", "_"): tensor for name, tensor in made.state_dict().items()}
    compared = 0
    for name, tensor in network.encoder.state_dict().items():
        key = name.removeprefix("model.").replace(".", "_")
        if key in theirs and not key.endswith("num_batches_tracked"):
            compared += 1
            assert torch.equal(tensor, theirs[key]), name
    assert compared > 0.9 * len([name for name in theirs if not name.endswith("num_batches_tracked")]) - 2
