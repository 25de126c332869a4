"""``--batch-size auto``: the largest batch that fits, with simulated out-of-memory errors."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_memory import DATA, OPTIONS, SMALL, checkpoint
from test_trainer import same

import semiseg
from semiseg import compare
from semiseg.config import from_mapping
from semiseg.errors import UserError
from semiseg.methods import METHODS, Batch, Progress
from semiseg.training import auto_batch_size
from semiseg.training.auto_batch_size import is_out_of_memory, largest
from semiseg.training.build import make_method
from toy import start_over

pytestmark = pytest.mark.usefixtures("quick_module")


@pytest.mark.parametrize(
    ("fitting", "limit", "found"), [(5, 100, 4), (8, 100, 8), (100, 23, 16), (0, 100, 0), (9, 1, 1)]
)
def test_largest_power_of_two_that_fits(fitting: int, limit: int, found: int) -> None:
    tried: list[int] = []

    def fits(images: int) -> bool:
        tried.append(images)
        return images <= fitting

    assert largest(fits, limit) == found
    assert tried == sorted(tried) and tried[-1] <= limit


def test_out_of_memory_errors_are_recognized() -> None:
    for error in (torch.OutOfMemoryError("x"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Simulate a GPU with memory for two images of each kind."""
    steps: list[int] = []
    take_step = auto_batch_size.Trial.take_step

    def limited(trial: auto_batch_size.Trial, given: Batch) -> None:
        steps.append(len(given.labeled_images))
        assert len(given.unlabeled_images) == len(given.masks) == steps[-1]
        take_step(trial, given)
        if steps[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(auto_batch_size, "require_gpu", lambda device: None)
    monkeypatch.setattr(auto_batch_size.Trial, "take_step", limited)
    return steps


@pytest.mark.slow
def test_found_batch_size_is_used_by_the_run_and_its_resume(tmp_path: Path, small_device: list[int]) -> None:
    options = OPTIONS | {"steps": 2}
    found = semiseg.train(out=tmp_path / "found", **options | {"batch_size": "auto"})
    assert small_device == [1, 1, 2, 2, 4]  # two steps of each size
    assert "batch_size: 2\n" in (found / "config.yaml").read_text()
    assert "--batch-size auto: 2" in (found / "log.txt").read_text().splitlines()
    given = semiseg.train(out=tmp_path / "given", **options)
    assert same(checkpoint(found)["method"], checkpoint(given)["method"])  # trial steps change nothing
    start_over(found)
    assert same(checkpoint(semiseg.train(resume=found))["method"], checkpoint(given)["method"])
    assert small_device == [1, 1, 2, 2, 4]  # no new trials on resume


@pytest.mark.slow
def test_micro_batch_has_to_fit(tmp_path: Path, small_device: list[int]) -> None:
    options = OPTIONS | {"batch_size": "auto", "accumulate": 2, "labeled": "8", "steps": 1, "val_every": "never"}
    run = semiseg.train(out=tmp_path / "run", **options)
    assert "batch_size: 4\n" in (run / "config.yaml").read_text() and small_device[-1] == 4


TWO = """
import os, sys
import torch
import semiseg
from semiseg.training import auto_batch_size

def limited(trial, batch, take_step=auto_batch_size.Trial.take_step):
    take_step(trial, batch)
    if len(batch.masks) > (1 if trial.fabric.global_rank else 4):
        raise torch.OutOfMemoryError("CUDA out of memory")

auto_batch_size.require_gpu = lambda device: None
auto_batch_size.Trial.take_step = limited
semiseg.train(out=sys.argv[1], **OPTIONS)
"""


@pytest.mark.slow
@pytest.mark.long
def test_all_processes_use_the_smallest_batch_size(tmp_path: Path) -> None:
    options = OPTIONS | {"batch_size": "auto", "steps": 1, "val_every": "never"}
    (tmp_path / "two.py").write_text(TWO.replace("OPTIONS", repr(options)))
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, str(tmp_path / "two.py"), str(tmp_path / "run")]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.count("--batch-size auto: 2\n") == 1
        and "batch_size: 2\n" in (tmp_path / "run/config.yaml").read_text()
    )


@pytest.mark.usefixtures("small_device")
def test_error_if_not_even_one_image_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(auto_batch_size.Trial, "take_step", full)
    with pytest.raises(UserError, match="not even one image of each kind fits"):
        semiseg.train(out=tmp_path / "run", **OPTIONS | {"batch_size": "auto"})
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("small_device")
def test_other_errors_of_a_trial_pass_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(auto_batch_size.Trial, "take_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        semiseg.train(out=tmp_path / "run", **OPTIONS | {"batch_size": "auto"})


def test_cpu_requires_a_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--batch-size: auto needs a GPU, not cpu\. Give a number"):
        semiseg.train(out=tmp_path / "run", **OPTIONS | {"batch_size": "auto"})
    assert not (tmp_path / "run").exists()


def test_comparison_requires_a_number(tmp_path: Path) -> None:
    options = {key: OPTIONS[key] for key in ("encoder", "weights", "crop_size", "steps")} | {"batch_size": "auto"}
    with pytest.raises(UserError, match="auto may differ between methods"):
        compare(OPTIONS["data"], ["supervised"], ["4"], [0], tmp_path / "compared", **options)


def test_trial_steps_are_past_every_burn_in() -> None:
    method = METHODS["dual-teacher"]
    options = from_mapping((method.Options,), {"burn_in": 0.3, "ramp_up": 0.15}, "options")[0]
    ramped = make_method(replace(SMALL, method="dual-teacher"), options, DATA)
    assert ramped.ramp(Progress(0, 1000, 10)) == 0.0 and ramped.ramp(auto_batch_size.LAST) == 1.0
