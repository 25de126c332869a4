"""One run on two processes: each trains on its part of the batch, and together they count every val pixel once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from semiseg.training.checkpoint import load_checkpoint

NETWORKS = ("student", "teacher1", "teacher2", "teachers-average")
OPTIONS = (
    *("--data", "shapes:images=10,val=3,test=1,size=48", "--labeled", "4", "--method", "dual-teacher", "--steps", "4"),
    *("--batch-size", "4", "--crop-size", "32", "--val-every", "2", "--weights", "none", "--accelerator", "cpu"),
    *("--burn-in", "0.25", "--workers", "0", "--threshold-mode", "none", "--batchnorm", "frozen-encoder"),
)


def train(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "semiseg.cli", "train", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("two") / "run"
    done = train(*OPTIONS, "--devices", "2", "--out", str(run))
    assert done.returncode == 0, done.stderr
    return run


def test_one_log_of_both(two: Path) -> None:
    lines = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "split" not in line] == [1, 2, 3, 4]
    validated = [(line["step"], line["network"]) for line in lines if line.get("split") == "val"]
    assert validated == [(step, name) for step in (2, 4) for name in NETWORKS]


def test_every_val_pixel_is_counted_once(two: Path) -> None:
    counts = json.loads((two / "confusion.json").read_text())["counts"]
    assert sum(map(sum, counts)) == 3 * 48 * 48  # three images on two processes


@pytest.mark.long
def test_both_resume_from_the_start_and_end_alike(two: Path) -> None:
    best = (two / "checkpoints" / "best.pt").read_bytes()
    (two / "checkpoints" / "last.pt").unlink()  # as a crash before the first checkpoint leaves it
    resumed = train("--resume", str(two))
    assert resumed.returncode == 0, resumed.stderr
    assert (two / "checkpoints" / "best.pt").read_bytes() == best


STILL = """
from semiseg.methods.dual_teacher import DualTeacher

class Still(DualTeacher):
    def train(self, mode=True):  # batch normalization by its running statistics, no dropout, no drop path
        return super().train(False)
"""


@pytest.mark.long
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """From start to end, by the command; each method step by step: test_one_as_many.py."""
    (tmp_path / "still.py").write_text(STILL)
    options = [*OPTIONS, "--method", f"{tmp_path / 'still.py'}:Still", "--optimizer", "sgd"]
    states, losses = [], []
    for devices in ("1", "2"):
        done = train(*options, "--devices", devices, "--out", str(tmp_path / devices))
        assert done.returncode == 0, done.stderr
        states.append(load_checkpoint(tmp_path / devices / "checkpoints" / "last.pt"))
        lines = (tmp_path / devices / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines if "split" not in line])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert states[0]["method"].keys() == states[1]["method"].keys()
    for name, value in states[0]["method"].items():
        torch.testing.assert_close(states[1]["method"][name], value, rtol=1e-5, atol=1e-5, msg=name)


def test_a_users_error_is_told_once(tmp_path: Path) -> None:
    refused = train(*OPTIONS, "--devices", "2", "--batch-size", "3", "--out", str(tmp_path / "run"))
    assert refused.returncode == 2
    assert refused.stderr.count("does not divide") == 1, refused.stderr
