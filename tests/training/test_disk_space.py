"""Full, read-only and removed disks: the last checkpoint stays valid, the error is one line, and --resume continues."""

from __future__ import annotations

import errno
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import semiseg
from semiseg import cli
from semiseg.errors import UserError
from semiseg.training import disk_space
from semiseg.training.disk_space import report_write_errors, require_disk_space
from semiseg.training.logging.metrics_log import read_metrics
from semiseg.training.logging.sample_pictures import Samples

QUICK: dict[str, Any] = {
    **{"data": "shapes:images=8,val=2,test=1,size=48", "method": "supervised", "labeled": "4"},
    **{"encoder": "test_resnet"},
    **{"weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0, "accelerator": "cpu"},
    **{"steps": 4, "val_every": 2, "keep": 1},
}
TIMES = ("time_s", "images_per_s", "data_wait_fraction")
CHECKPOINTS = ["best.pt", "last.pt", "step-0000004.pt"]


def train(out: Path, **options: Any) -> Path:
    return semiseg.train(out=out, **QUICK | options)


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run / "metrics.jsonl")]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, callback: Callable[[], object]) -> None:
    """Call ``callback`` once, in the validation after ``step``, before the validation writes its files."""
    write, callbacks = Samples.write, [callback]

    def write_after_callback(self: Samples, method: Any, progress: Any, best: Any) -> list[Path]:
        if progress.step + 1 == step and callbacks:
            callbacks.pop()()
        return write(self, method, progress, best)

    monkeypatch.setattr(Samples, "write", write_after_callback)


def error_of(call: Callable[[], object]) -> str:
    """Return the message of the UserError that the call raises; it must be one line."""
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("uninterrupted") / "run")


def assert_resumes_exactly(run: Path, uninterrupted: Path) -> None:
    """Resume the run and compare its files with those of the uninterrupted run."""
    semiseg.train(resume=run)
    assert sorted(contents(run)) == CHECKPOINTS
    assert contents(run) == contents(uninterrupted) and metrics(run) == metrics(uninterrupted)
    assert (run / "report.html").is_file()


# A limit on the size of files, which every system supports: checkpoints exceed it, other files do not.


@pytest.mark.slow
def test_file_size_limit_keeps_last_checkpoint_and_run_resumes(
    uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    at_step(monkeypatch, 4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1])))
    try:
        message = error_of(lambda: train(run))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(run / "checkpoints" / "best.pt") in message or str(run / "checkpoints" / "last.pt") in message
    assert (
        "File too large" in message
        and "checkpoints take up to" in message
        and f"semiseg train --resume {run}" in message
    )
    assert not list((run / "checkpoints").glob(".*")), "a partial file remains"
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] == 2
    assert_resumes_exactly(run, uninterrupted)


# A small file system, if the tests may mount one.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 64 MB, larger than the checkpoints of a run."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("not allowed to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int = 0) -> Path:
    """Fill the disk until ``left`` bytes are free."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        while (free := shutil.disk_usage(folder).free) > left:
            file.write(bytes(min(free - left, 2**20)))
    return ballast


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 600_000])
def test_full_disk_keeps_last_checkpoint_and_run_resumes(
    uninterrupted: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """With 0 bytes left nothing can be written; with 600,000, log and pictures fit and checkpoints do not."""
    run = small_disk / "run"
    at_step(monkeypatch, 4, lambda: fill(small_disk, left))
    message = error_of(lambda: train(run))
    assert (
        "No space left on device" in message
        and "checkpoints take up to" in message
        and " are free)" in message
        and "Free disk space" in message
    )
    assert message.startswith(str(run))
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] == 2
    (small_disk / "ballast").unlink()
    assert_resumes_exactly(run, uninterrupted)


@pytest.mark.slow
def test_read_only_disk_keeps_last_checkpoint_and_run_resumes(
    uninterrupted: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_disk / "run"

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)

    class Crash(Exception):
        pass

    def crash() -> None:
        raise Crash

    at_step(monkeypatch, 4, crash)
    with pytest.raises(Crash):
        train(run)
    monkeypatch.undo()
    remount("ro")
    try:
        message = error_of(lambda: semiseg.train(resume=run))
    finally:
        remount("rw")
    assert message.startswith(f"{run}/.lock: cannot be written (Read-only file system). Choose a directory that is not")
    assert_resumes_exactly(run, uninterrupted)


@pytest.mark.slow
def test_removed_run_directory_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    at_step(monkeypatch, 4, lambda: run.rename(tmp_path / "elsewhere"))
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in QUICK.items()]
    monkeypatch.setattr(sys, "argv", ["semiseg", "train", *arguments, "--out", str(run)])
    assert cli.main() == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert (
        message.startswith(f"semiseg: {run}/")
        and "Restore the run directory, then run semiseg train --resume" in message
    )
    assert not run.exists(), "a partial run directory was created"
    assert torch.load(tmp_path / "elsewhere" / "checkpoints" / "last.pt", weights_only=True)["step"] == 2


# Before the run.


@pytest.mark.slow
def test_announced_checkpoint_size_matches_files(tmp_path: Path) -> None:
    run = train(tmp_path / "run", method="mean-teacher", keep=2)
    files = contents(run)
    assert len(files) == 4  # plus a second last.pt and a third kept checkpoint while new ones are written
    taken = sum(map(len, files.values())) + len(files["last.pt"]) + len(files["best.pt"])
    line = next(line for line in (run / "log.txt").read_text().splitlines() if line.startswith("disk: "))
    announced = float(line.split()[3]) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[line.split()[4]]
    assert announced == pytest.approx(taken, rel=0.05)


def test_insufficient_disk_space_is_an_error_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    message = error_of(lambda: train(tmp_path / "run"))
    assert "only 100.0 kB are free. Free disk space or choose another --out" in message
    assert not (tmp_path / "run").exists()


def test_unknown_free_space_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(path: object) -> None:
        raise OSError

    monkeypatch.setattr(disk_space.shutil, "disk_usage", unknown)
    assert require_disk_space(tmp_path / "run", 3 * 10**9) == "disk: up to 3.0 GB for checkpoints"


def test_other_os_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), report_write_errors(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")
