"""Images of 16 bits, four and five bands, from training to export: every way to a mask reads them alike."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

import semiseg
from semiseg.tools.serving.served_models import Networks
from semiseg.tools.serving.uploads import read_upload
from toy import predict_several_classes

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_module")]  # whole trainings and exports


# A network that ONNX exports in seconds; it has no residual branches to drop for the consistency loss.
EXPORTED: dict[str, Any] = {"encoder": "test_efficientnet", "consistency_weight": 0.0}


def scene(seed: int, bands: int, factor: int, dtype: type) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Return an image of noise with a bright square in its last band, and the mask of the square."""
    random = np.random.default_rng(seed)
    image, mask = random.normal(90, 20, (64, 64, bands)), np.zeros((64, 64), dtype=np.uint8)
    top, left = random.integers(0, 40, 2)
    mask[top : top + 24, left : left + 24] = 1
    image[mask == 1, -1] += 120
    return (image.clip(0, 255) * factor + 200 * (factor > 1)).astype(dtype), mask


def make_folder(root: Path, count: int, factor: int = 1, dtype: type = np.uint8, **class_file: Any) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for index in range(6):
        image, mask = scene(index, count, factor, dtype)
        photometric = "rgb" if count in (3, 4) else "minisblack"
        extra = {"extrasamples": [0]} if count == 4 else {}
        tifffile.imwrite(
            root / "images" / f"{index}.tif", image, photometric=photometric, planarconfig="contig", **extra
        )
        if index < 4:
            Image.fromarray(mask).save(root / "masks" / f"{index}.png")
    (root / "classes.json").write_text(json.dumps({"classes": ["ground", "plant"]} | class_file))
    return root


def train(data: Path, **options: Any) -> Path:
    small = {"steps": 2, "crop_size": 32, "batch_size": 2, "workers": 0, "encoder": "test_resnet"}
    run = semiseg.train(data, out=data.parent / "run", **small | {"weights": "none", "accelerator": "cpu"} | options)
    predict_both_classes(run, data / "images" / "4.tif")
    return run


def predict_both_classes(run: Path, photo: Path) -> None:
    """Change the last layers of the best checkpoint so that half of the pixels of an image become class 1."""
    checkpoint = run / "checkpoints" / "best.pt"
    predict_several_classes(checkpoint)
    prediction = semiseg.load(run, accelerator="cpu")(photo)
    margin = prediction.confidence.logit() * (2 * prediction.mask.float() - 1)  # logit of class 1 minus that of class 0
    state = torch.load(checkpoint, weights_only=True)
    for name, tensor in state["method"].items():
        if name.endswith("head.bias"):
            tensor[0] += margin.median()
    torch.save(state, checkpoint)


def check_agreement(run: Path, photo: Path, out: Path) -> torch.Tensor:
    """Predict a file in every way, compare the masks, and return the mask."""
    model = semiseg.load(run, accelerator="cpu")
    mask = model(str(photo)).mask
    (written,) = semiseg.predict(run, photo, out / "masks", overlay=True, accelerator="cpu")
    assert np.array_equal(np.array(Image.open(written)), mask)
    networks = Networks([str(run)], accelerator="cpu")
    (answer,) = networks.segment(lambda format: read_upload(photo.read_bytes(), networks.peak_pixels, format))
    assert torch.equal(answer.mask, mask) and len(mask.unique()) > 1
    exported = semiseg.export(run, out=out / "export").path
    assert torch.equal(semiseg.load(exported, accelerator="cpu")(photo).mask, mask)
    return mask


def export_onnx(run: Path, photo: Path, out: Path) -> NDArray[np.uint8]:
    """Return the mask that the script of an ONNX export writes."""
    folder = semiseg.export(run, "onnx", out=out / "onnx").path
    target = out / "onnx.png"
    subprocess.run([sys.executable, str(folder / "inference.py"), str(photo), str(target)], check=True)
    mask: NDArray[np.uint8] = np.array(Image.open(target))
    return mask


def test_sixteen_bits_give_one_mask_everywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data", 3, factor=10, dtype=np.uint16)
    run = train(data, **EXPORTED)
    note = next(line for line in capsys.readouterr().err.splitlines() if "16-bit" in line)
    white = semiseg.load(run, accelerator="cpu").config.white
    assert f"white is {white:g} (p99.8)" in note and 2000 < white < 2751
    assert note in (run / "log.txt").read_text()
    photo = data / "images" / "5.tif"
    mask = check_agreement(run, photo, tmp_path)
    description = json.loads((tmp_path / "export" / "config.json").read_text())
    assert description["white"] == description["training"]["white"] == white and description["bands"] is None
    onnx = export_onnx(run, photo, tmp_path)
    assert (onnx == mask.numpy()).mean() > 0.999  # rounding of logits
    assert f"RGB ({white:g} is 1 in images of more than 8 bits)" in (tmp_path / "onnx" / "README.md").read_text()
    (data / "classes.json").write_text(json.dumps({"classes": ["ground", "plant"], "white": 60000}))
    assert torch.equal(semiseg.load(run, accelerator="cpu")(photo).mask, mask)  # the run keeps its own value
    assert semiseg.evaluate(run, split="val", accelerator="cpu")["miou"] is not None


@pytest.mark.parametrize("bands", [[4, 3, 2], "all"], ids=["three-of-four", "all-four"])
def test_four_bands_from_training_to_export(tmp_path: Path, bands: Any) -> None:
    data = make_folder(tmp_path / "data", 4, bands=bands)
    run = train(data)
    model = semiseg.load(run, accelerator="cpu")
    expected = (4, 3, 2) if bands != "all" else (1, 2, 3, 4)
    assert model.config.bands == expected and model.predictor.channels == len(expected)
    check_agreement(run, data / "images" / "4.tif", tmp_path)


def test_onnx_reads_some_bands_in_another_order(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", 5, bands=[5, 3, 1, 2])
    run, photo = train(data, **EXPORTED), data / "images" / "4.tif"
    mask = semiseg.load(run, accelerator="cpu")(photo).mask
    assert len(mask.unique()) == 2 and (export_onnx(run, photo, tmp_path) == mask.numpy()).mean() > 0.999


@pytest.mark.parametrize("method", ["supervised", "dual-teacher", "augseg"])
def test_five_channels_from_training_to_export(tmp_path: Path, method: str) -> None:
    data = make_folder(tmp_path / "data", 5, factor=10, dtype=np.uint16)
    run = train(data, method=method)
    assert semiseg.load(run, accelerator="cpu").config.bands == (1, 2, 3, 4, 5)
    check_agreement(run, data / "images" / "4.tif", tmp_path)
    with pytest.raises(semiseg.UserError, match="it has 3 bands, and band 5 is to be read"):
        tifffile.imwrite(tmp_path / "rgb.tif", scene(0, 3, 1, np.uint8)[0], photometric="rgb")
        semiseg.predict(run, tmp_path / "rgb.tif", tmp_path / "more", accelerator="cpu")


def test_options_take_precedence_over_the_class_file(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", 4, bands="all", white=100)
    config = semiseg.load(train(data, bands=(2,), white=50, method="supervised"), accelerator="cpu").config
    assert config.bands == (2,) and config.white == 50


def test_files_that_are_not_read_and_pages_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_folder(tmp_path / "data", 3)
    first = tifffile.imread(data / "images" / "0.tif")
    tifffile.imwrite(data / "images" / "0.tif", np.stack([first, first]), photometric="rgb")
    (data / "images" / "scan.dcm").write_bytes(b"\0" * 132 + b"DICM")
    train(data, method="supervised")
    printed = capsys.readouterr().err
    assert "1 labeled images have several pages, of which the first is used, such as 0.tif (2 pages)" in printed
    assert "not read: images/scan.dcm; 1 .dcm (DICOM: convert to PNG or TIFF)" in printed
