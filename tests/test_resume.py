"""A run that was killed, at whatever moment, ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TIMES = ("time_s", "images_per_s", "data_wait_fraction")
# Twelve steps of Dual Teacher: three shifts and more, four validations, a checkpoint at each.
OPTIONS = (
    *("--data", "shapes:images=10,val=2,test=1,size=48", "--labeled", "4", "--method", "dual-teacher", "--steps", "12"),
    *("--batch-size", "2", "--crop-size", "32", "--val-every", "3", "--weights", "none", "--accelerator", "cpu"),
    *("--burn-in", "0.2", "--workers", "0", "--threshold-mode", "none"),
)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "semiseg.cli", "train", *arguments]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr.decode()


def kill_when(process: subprocess.Popen[bytes], ready: Any) -> None:
    """Send SIGKILL to the whole process group as soon as ``ready()`` holds."""
    deadline = time.monotonic() + 200
    while not ready():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def metrics(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in found]


def assert_same(run: Path, reference: Path) -> None:
    for name in ("last.pt", "best.pt"):
        assert (run / "checkpoints" / name).read_bytes() == (reference / "checkpoints" / name).read_bytes(), name
    assert metrics(run) == metrics(reference)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(start(*OPTIONS, "--out", str(run)))
    assert {line["step"] for line in metrics(run)} == set(range(1, 13))
    assert any(line.get("loss/unsupervised") for line in metrics(run)), "the case must reach the teachers' shifts"
    return run


def test_killed_before_the_first_checkpoint(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_when(start(*OPTIONS, "--out", str(run)), lambda: lines(run) >= 1)
    assert not (run / "checkpoints" / "last.pt").exists()
    finish(start("--resume", str(run)))
    assert_same(run, undisturbed)


def test_killed_twice_after_a_checkpoint(undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kill_when(start(*OPTIONS, "--out", str(run)), lambda: (run / "checkpoints" / "last.pt").exists())
    before = lines(run)
    kill_when(start("--resume", str(run)), lambda: lines(run) > before + 2)
    finish(start("--resume", str(run)))
    assert_same(run, undisturbed)


def test_a_finished_run_is_left_as_it_is(undisturbed: Path) -> None:
    before = {name: (undisturbed / "checkpoints" / name).read_bytes() for name in ("last.pt", "best.pt")}
    lines_before = metrics(undisturbed)
    finish(start("--resume", str(undisturbed)))
    assert metrics(undisturbed) == lines_before
    assert {name: (undisturbed / "checkpoints" / name).read_bytes() for name in before} == before


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("attempt", range(10))
def test_killed_at_a_random_moment(undisturbed: Path, tmp_path: Path, attempt: int) -> None:
    run, rng = tmp_path / "run", random.Random(attempt)
    moment = time.monotonic() + rng.uniform(2, 25)
    process = start(*OPTIONS, "--out", str(run))
    while process.poll() is None and time.monotonic() < moment:
        time.sleep(0.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not run.exists():  # killed before there was a run: nothing is left to resume, and nothing half made
        run_again = start(*OPTIONS, "--out", str(run))
    else:
        run_again = start("--resume", str(run))
    finish(run_again)
    assert_same(run, undisturbed)
