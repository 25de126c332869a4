"""Exports predict what the run predicts, and a failed export leaves no files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import semiseg
from semiseg.networks import build
from semiseg.tools.exporting import traced_network, write_export
from semiseg.tools.exporting.export_config import public_settings
from toy import predict_several_classes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_module")]  # whole commands, trainings or exports

SHAPES = "shapes:images=10,val=3,test=2,size=48"
OPTIONS = {"crop_size": 32, "batch_size": 2, "steps": 2, "workers": 0, "accelerator": "cpu", "weights": "none"}
OPTIONS |= {"encoder": "test_efficientnet"}
NO_SEMISEG = "import sys\nfor name in ('torch', 'semiseg', 'torchvision'):\n    sys.modules[name] = None\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    semiseg.train(SHAPES, "mean-teacher", out, labeled="4", val_limit=2, **OPTIONS)
    predict_several_classes(out / "checkpoints" / "best.pt")
    semiseg.evaluate(out, split="test")
    return out


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(values).resize((99, 70), Image.Resampling.BICUBIC).save(path)
    return path


def test_safetensors_give_bit_identical_predictions(run: Path, photo: Path, tmp_path: Path) -> None:
    folder, difference = semiseg.export(run, out=tmp_path / "out", network="teacher1")
    assert difference == 0
    image = torch.from_numpy(np.array(Image.open(photo))).permute(2, 0, 1)
    ours, theirs = semiseg.load(run, "teacher1"), semiseg.load(folder)
    assert torch.equal(ours.predictor.probabilities(image), theirs.predictor.probabilities(image))
    assert (theirs.classes, theirs.palette, theirs.network) == (ours.classes, ours.palette, "teacher1")
    assert semiseg.load(folder / "model.safetensors").step == ours.step > 0
    assert (folder / "model.safetensors").stat().st_mode == next(folder.glob("*.json")).stat().st_mode


def test_predict_and_evaluate_accept_an_export(run: Path, photo: Path, tmp_path: Path) -> None:
    folder = semiseg.export(run, out=tmp_path / "out").path
    (mask,) = semiseg.predict(folder, photo, tmp_path / "masks")
    (expected,) = semiseg.predict(run, photo, tmp_path / "expected")
    assert mask.read_bytes() == expected.read_bytes()
    before = (run / "evaluations.jsonl").read_text()
    result = semiseg.evaluate(folder, SHAPES)
    assert result["miou"] == json.loads(before.splitlines()[-1])["miou"]
    assert (run / "evaluations.jsonl").read_text() == before


def test_pt2_accepts_any_batch_and_size(run: Path, tmp_path: Path) -> None:
    folder, difference = semiseg.export(run, "torch", tmp_path / "out")
    assert 0 <= difference <= write_export.LIMIT
    program = torch.export.load(folder / "model.pt2").module()
    network = semiseg.load(run, accelerator="cpu").networks["student"]
    for shape in ((1, 3, 64, 48), (3, 3, 32, 96)):
        images = torch.rand(shape)
        with torch.no_grad():
            assert (program(images) - network(images)).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, pytest.param(0.5, marks=pytest.mark.long)])
def test_onnx_script_needs_neither_torch_nor_semiseg(
    run: Path, photo: Path, tmp_path: Path, scale: float, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    if scale != 1:
        run = scaled(run, tmp_path / "scaled.pt", scale)
    folder = semiseg.export(run, "onnx", tmp_path / "out").path
    assert capsys.readouterr().err.startswith("Exporting to ONNX, which can take two minutes\n")
    code = NO_SEMISEG + f"import runpy\nsys.argv[0] = 'inference.py'\nrunpy.run_path({str(folder / 'inference.py')!r})"
    subprocess.run([sys.executable, "-c", code, photo, tmp_path / "mask.png"], check=True, timeout=120)
    usage = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert usage.returncode == 1 and usage.stderr.startswith("Segment an image with model.onnx: python")
    (expected,) = semiseg.predict(run, photo, tmp_path / "expected")
    ours, theirs = Image.open(expected), Image.open(tmp_path / "mask.png")
    assert theirs.mode == "P" and theirs.size == ours.size == (99, 70)
    assert len(np.unique(np.array(ours))) > 1
    assert (np.array(ours) != np.array(theirs)).mean() <= 0.001  # rounding decides ties
    wide = np.array(Image.open(photo).convert("L")).astype(np.int32) * 8_000_000  # beyond 16 bits
    Image.fromarray(wide).save(tmp_path / "wide.tif")
    subprocess.run([sys.executable, "-c", code, tmp_path / "wide.tif", tmp_path / "wide.png"], check=True, timeout=120)
    (expected,) = semiseg.predict(run, tmp_path / "wide.tif", tmp_path / "expected")
    assert (np.array(Image.open(expected)) != np.array(Image.open(tmp_path / "wide.png"))).mean() <= 0.001
    classes = len(json.loads((folder / "config.json").read_text())["classes"])
    assert theirs.getpalette()[: 3 * classes] == ours.getpalette()[: 3 * classes]


def scaled(run: Path, file: Path, scale: float) -> Path:
    state = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    state["config"]["image_scale"] = scale
    torch.save(state, file)
    return file


def test_onnx_script_has_at_most_25_lines() -> None:
    text = Path(write_export.__file__).with_name("onnx_inference.py").read_text()
    assert len([line for line in text.splitlines() if line]) <= 25


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [
        ("deeplabv3plus", "test_resnet"),
        ("deeplabv3plus-separable", "tf_efficientnet_lite0"),
        pytest.param("segformer", "mit_b0", marks=pytest.mark.long),
        pytest.param("dpt", "test_vit", marks=pytest.mark.long),
        pytest.param("deeplabv3plus-u2pl", "test_resnet", marks=pytest.mark.long),
    ],
)
def test_every_architecture_can_be_traced_with_dynamic_batch_and_size(architecture: str, encoder: str) -> None:
    torch.manual_seed(0)
    network = build(architecture, encoder, 4, "none").eval()
    program = traced_network.make_program(network).module()
    images = [torch.randint(0, 256, (3, 50, 60), dtype=torch.uint8)]
    assert write_export.largest_difference(network, program, images) < 1e-4
    assert {len(batch) for batch in write_export.checked_batches(network, images)} == {1, 2}
    assert len({batch.shape[-2:] for batch in write_export.checked_batches(network, images)}) == 2


def test_tracing_does_not_change_the_network() -> None:
    network = build("deeplabv3plus-separable", "tf_efficientnet_lite0", 4, "none").eval()
    kinds = [type(module) for module in network.modules()]
    traced_network.Graph(network)
    assert [type(module) for module in network.modules()] == kinds
    assert any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_an_export_that_differs_from_pytorch_is_removed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    def off(network: torch.nn.Module, folder: Path) -> Callable[[Tensor], Tensor]:
        (folder / "model.pt2").write_bytes(b"")
        return lambda images: network(images) + error

    monkeypatch.setitem(write_export.FORMATS, "torch", off)
    with pytest.raises(semiseg.UserError, match=r"differ from PyTorch by .* nothing was kept"):
        semiseg.export(run, "torch", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_cannot_be_traced_is_reported_in_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(network: torch.nn.Module) -> None:
        raise RuntimeError("guards\nin two lines")

    monkeypatch.setattr(write_export, "make_program", stop)
    with pytest.raises(semiseg.UserError, match="cannot be exported as torch \\(guards in two lines\\)") as refusal:
        semiseg.export(run, "torch", tmp_path / "out")
    assert "\n" not in str(refusal.value) and list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(semiseg.UserError, match=r"pip install 'semiseg\[export\]'"):
        semiseg.export(run, "onnx", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_export_does_not_overwrite_a_directory(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(semiseg.UserError, match=r"out: exists\. Choose another --out\."):
        semiseg.export(run, out=tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tflite"}, "unknown format 'tflite'"),
        ({"network": "teacher9"}, "unknown network 'teacher9': did you mean teacher1"),
        ({"checkpoint": "first"}, "unknown checkpoint"),
    ],
)
def test_unknown_names_are_rejected(run: Path, tmp_path: Path, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(semiseg.UserError, match=message):
        semiseg.export(run, out=tmp_path / "out", **arguments)


def test_an_export_cannot_be_exported_again(run: Path, tmp_path: Path) -> None:
    folder = semiseg.export(run, out=tmp_path / "out").path
    with pytest.raises(semiseg.UserError, match="is already an export"):
        semiseg.export(folder, "torch", tmp_path / "again")


def test_load_rejects_a_damaged_export(run: Path, tmp_path: Path) -> None:
    folder = semiseg.export(run, out=tmp_path / "out").path
    config, weights = folder / "config.json", folder / "model.safetensors"
    text, data = config.read_text(), weights.read_bytes()
    other = json.dumps(json.loads(text) | {"encoder": "test_resnet"})
    for changed_text, changed_data in (("{}", data), (text, b"no tensors"), (other, data)):
        config.write_text(changed_text)
        weights.write_bytes(changed_data)
        with pytest.raises(semiseg.UserError, match="Export the run again"):
            semiseg.load(folder)


def test_model_card_has_front_matter_classes_and_figures(run: Path, tmp_path: Path) -> None:
    card = (semiseg.export(run, out=tmp_path / "out").path / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["pipeline_tag"] == "image-segmentation" and matter["library_name"] == "semiseg"
    assert matter["license"] is None and "License: not chosen yet" in text
    assert "mean-teacher" in matter["tags"]
    test = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])["networks"]["student"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    best = torch.load(run / "checkpoints" / "best.pt", weights_only=True)["step"]
    (val,) = [line for line in lines if line.get("network") == "student" and line["step"] == best]
    assert f"| in percent | val | test |\n|---|---|---|\n| mIoU | {val['miou']:.2f} | {test['miou']:.2f} |" in text
    assert all(f"| {name} |" in text for name in test["iou"])
    assert "val was measured during training, on at most 2 of its images" in text
    assert "(4 labeled, 6 unlabeled, 3 val, 2 test images)" in text


def test_model_card_without_figures(run: Path, tmp_path: Path) -> None:
    lone = tmp_path / "lone.pt"
    lone.write_bytes((run / "checkpoints" / "best.pt").read_bytes())
    with pytest.raises(semiseg.UserError, match=r"not inside a run directory\. Pass --out"):
        semiseg.export(lone)
    card = (semiseg.export(lone, out=tmp_path / "out").path / "README.md").read_text()
    assert "the run has not been evaluated" in card and "mIoU" not in card


def test_exports_contain_no_directories_of_this_machine(tmp_path: Path) -> None:
    settings = {"data": str(tmp_path / "secret" / "flowers"), "weights": "none", "lr": 0.1}
    assert public_settings(settings) == {"data": "flowers", "weights": "none", "lr": 0.1}
