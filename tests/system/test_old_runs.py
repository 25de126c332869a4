"""A run of version 0.1.0 can still be evaluated, used and resumed, with the numbers of that version.

Only the public interface of semiseg is used. ``python tests/system/test_old_runs.py`` records the numbers, which is of
use for the run of a new version only; see ``tests/fixtures/make_run.py``.
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import semiseg

pytestmark = pytest.mark.slow  # whole commands, trainings or exports

FIXTURES = Path(__file__).parents[1] / "fixtures"
OLD, EXPECTED = FIXTURES / "run-0.1.0", FIXTURES / "run-0.1.0-expected.json"
TIMES = {"time_s", "images_per_s", "data_wait_fraction"}
STEPS_TAKEN = 40
TOLERANCE = 1e-5
PERCENT = {"miou", "pixel_accuracy", "iou"}
TOLERANCE_AFTER_STEPS = 1.0
"""For IoUs in percent: on another CPU, a few pixels may change their class after the resumed steps."""


def unpack(folder: Path) -> Path:
    """Return a copy of the old run in ``folder``, with its checkpoints."""
    run = Path(shutil.copytree(OLD, folder / "run"))
    with tarfile.open(run / "checkpoints.tar.xz") as archive:
        archive.extractall(run / "checkpoints", filter="data")
    (run / "checkpoints.tar.xz").unlink()
    return run


def make_image() -> Tensor:
    """Return a square and a disk on a gradient: uint8 ``(3, 64, 80)``."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(80), indexing="ij")
    image = torch.stack([2 * x, 3 * y, x + y])
    image[:, 8:32, 8:32] = torch.tensor([250, 30, 40])[:, None, None]
    image[:, (y - 40) ** 2 + (x - 56) ** 2 < 200] = torch.tensor([20, 60, 240])[:, None]
    return image.to(torch.uint8)


def evaluations(run: Path) -> dict[str, Any]:
    """Return the evaluation on the test list of the best and the last checkpoint."""
    return {name: semiseg.evaluate(run, split="test", checkpoint=name, accelerator="cpu") for name in ("best", "last")}


def prediction(run: Path, network: str) -> dict[str, Any]:
    """Return the pixels of each class and some confidences that a network predicts for the image."""
    model = semiseg.load(run, network, accelerator="cpu")
    mask, confidence = model(make_image())
    pixels = torch.bincount(mask.flatten().long(), minlength=len(model.classes))
    return {
        "classes": list(model.classes),
        "step": model.step,
        "pixels": pixels.tolist(),
        "confidence": confidence[::16, ::16].flatten().tolist(),
    }


def resumed(run: Path) -> dict[str, Any]:
    """Resume the run to its end; return the metrics of the steps taken, and the evaluation after them."""
    semiseg.train(resume=run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    later = [line for line in lines if line["step"] > STEPS_TAKEN]
    return {
        "metrics": [{key: value for key, value in line.items() if key not in TIMES} for line in later],
        "evaluation": evaluations(run)["last"],
    }


def observe(run: Path) -> dict[str, Any]:
    """Return all numbers of a run that are compared."""
    predictions = {network: prediction(run, network) for network in ("student", "teacher1", "teacher2")}
    return {"evaluations": evaluations(run), "predictions": predictions, "resumed": resumed(run)}


def assert_close(
    value: Any, expected: Any, where: str, tolerance: float = TOLERANCE, percent: float = TOLERANCE
) -> None:
    """Compare nested results: every expected key must be there, and numbers must be close. New keys are allowed.

    Args:
        value: The result.
        expected: What it must equal.
        where: Its path in the whole result, for the message.
        tolerance: The absolute tolerance.
        percent: The absolute tolerance of the entries named in ``PERCENT``.
    """
    if isinstance(expected, dict):
        assert expected.keys() <= value.keys(), where
        for key, item in expected.items():
            assert_close(value[key], item, f"{where}/{key}", percent if key in PERCENT else tolerance, percent)
    elif isinstance(expected, list):
        assert len(value) == len(expected), where
        for index, item in enumerate(expected):
            assert_close(value[index], item, f"{where}/{index}", tolerance, percent)
    elif isinstance(expected, float):
        assert value == pytest.approx(expected, rel=TOLERANCE, abs=tolerance), where
    else:
        assert value == expected, where


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return json.loads(EXPECTED.read_text(encoding="utf-8"))


def test_an_old_run_is_evaluated_as_before(run: Path, expected: dict[str, Any]) -> None:
    assert_close(evaluations(run), expected["evaluations"], "evaluations")


@pytest.mark.parametrize("network", ["student", "teacher1", "teacher2"])
def test_an_old_run_predicts_as_before(run: Path, expected: dict[str, Any], network: str) -> None:
    assert_close(prediction(run, network), expected["predictions"][network], "prediction")


def test_an_old_run_writes_the_mask_that_it_predicts(run: Path, tmp_path: Path) -> None:
    image = tmp_path / "photo.png"
    Image.fromarray(make_image().permute(1, 2, 0).numpy()).save(image)
    (mask,) = semiseg.predict(run, image, tmp_path / "masks", accelerator="cpu")
    ours = semiseg.load(run, accelerator="cpu")(image).mask
    assert np.array_equal(np.asarray(Image.open(mask)), ours.numpy())


def test_an_old_run_resumes_and_takes_the_steps_of_its_version(
    run: Path, tmp_path: Path, expected: dict[str, Any]
) -> None:
    run = Path(shutil.copytree(run, tmp_path / "run"))
    before = (run / "metrics.jsonl").read_text(encoding="utf-8")
    assert_close(resumed(run), expected["resumed"], "resumed", percent=TOLERANCE_AFTER_STEPS)
    assert (run / "metrics.jsonl").read_text(encoding="utf-8").startswith(before)


def test_expected_numbers_are_of_some_use(expected: dict[str, Any]) -> None:
    """Several classes are predicted, teachers differ from the student, and the resumed steps trust pseudo-labels."""
    predictions = expected["predictions"]
    assert sum(count > 0 for count in predictions["student"]["pixels"]) >= 3
    confidences = [predictions[name]["confidence"] for name in ("student", "teacher1", "teacher2")]
    assert all(a != b for a, b in zip(confidences, confidences[1:] + confidences[:1], strict=True))
    shares = [line["trusted_fraction"] for line in expected["resumed"]["metrics"] if "trusted_fraction" in line]
    assert len(shares) >= 3 and any(0 < share < 1 for share in shares)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        EXPECTED.write_text(json.dumps(observe(unpack(Path(folder))), indent=1) + "\n", encoding="utf-8")
