"""Logging: metrics.jsonl, resources.json, console texts and the step timer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from semiseg.training.logging import step_timer
from semiseg.training.logging.console import format_duration, format_miou
from semiseg.training.logging.metrics_log import MetricsLog, read_metrics
from semiseg.training.logging.resource_log import _peak_memory_mb, write_resources
from semiseg.training.logging.step_timer import StepTimer


def test_metrics_are_truncated_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    for step in (1, 2, 3):
        log.write(step, 0, {"loss": float("nan") if step == 2 else float(step)})
    log.close()
    assert [line["loss"] for line in read_metrics(path)] == [1, None, 3]  # JSON has no NaN
    path.write_text(path.read_text() + '{"step": 4, "lo')  # truncated by a crash
    log = MetricsLog(path, 2)
    log.write(3, 0, {"loss": 33.0})
    log.close()
    lines = read_metrics(path)
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1), (2, None), (3, 33)]
    assert lines[2]["time_s"] >= lines[1]["time_s"]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_format_duration_and_miou() -> None:
    texts = {20: "20 s", 29: "29 s", 200: "3 min", 3600: "1 h 00 min", 3900: "1 h 05 min"}
    assert {seconds: format_duration(seconds) for seconds in texts} == texts
    assert [format_miou(value) for value in (None, 41.26)] == ["-", "41.3"]


def test_resumed_run_keeps_the_highest_peak(tmp_path: Path) -> None:
    path, network = tmp_path / "resources.json", nn.Linear(3, 2).requires_grad_(False)
    for before, kept in ((None, False), (1e9, True)):
        if before:
            path.write_text(json.dumps({"peak_memory_mb": before}))
        write_resources(path, network, torch.device("cpu"), 12.3456)
        content = json.loads(path.read_text())
        assert (content["peak_memory_mb"] == before) == kept
        assert (content["trainable_parameters"], content["training_s"]) == (0, 12.346)


@pytest.mark.slow
def test_peak_memory_excludes_the_parent_process() -> None:
    """Linux passes the peak of a parent process on to its children."""
    code = "import torch; from semiseg.training.logging.resource_log import _peak_memory_mb as peak"
    code += "; print(peak(torch.device('cpu')))"
    ballast = torch.ones(2**26)  # 256 MiB
    child = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    del ballast
    parent = _peak_memory_mb(torch.device("cpu"))
    assert parent is not None and 50 < child < parent - 200


def test_step_timer_excludes_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(step_timer.time, "perf_counter", lambda: now[0])
    timer = StepTimer(images_per_step=4)
    now[0] = 5.0
    assert timer.read(steps=10)["images_per_s"] == 8  # 10 steps of 4 images in 5 s
    now[0] = 8.0  # 6 more steps, then a validation of 100 s
    timer.restart(steps=16)
    now[0] = 108.0
    timer.restart(steps=16)
    now[0] = 110.0
    assert timer.read(steps=20)["images_per_s"] == 8  # 4 steps in 2 s
