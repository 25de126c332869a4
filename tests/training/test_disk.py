"""A disk that is full, read-only or gone: the last good checkpoint stays, one line says why, and --resume goes on."""

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
from semiseg.training import disk_space as disk
from semiseg.training.disk_space import require_room, size, told_in_one_line
from semiseg.training.logging.metrics_log import read_metrics
from semiseg.training.logging.sample_pictures import Samples

QUICK: dict[str, Any] = {
    **{
        "data": "shapes:images=8,val=2,test=1,size=48",
        "method": "supervised",
        "labeled": "4",
        "encoder": "test_resnet",
    },
    **{"weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0, "accelerator": "cpu"},
    **{"steps": 6, "val_every": 2, "keep": 1},
}
TIMES = ("time_s", "images_per_s", "data_wait_fraction")
CHECKPOINTS = ["best.pt", "last.pt", "step-0000006.pt"]


def train(out: Path, **options: Any) -> Path:
    return semiseg.train(out=out, **QUICK | options)


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "checkpoints").iterdir()}


def metrics(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(run / "metrics.jsonl")]


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, happens: Callable[[], object]) -> None:
    """Have something happen once, in the validation after ``step``, before anything of it is written."""
    write, things = Samples.write, [happens]

    def written(self: Samples, method: Any, progress: Any, best: Any) -> list[Path]:
        if progress.step + 1 == step and things:
            things.pop()()
        return write(self, method, progress, best)

    monkeypatch.setattr(Samples, "write", written)


def refusal(call: Callable[[], object]) -> str:
    """The one line by which a call is refused."""
    with pytest.raises(UserError) as refused:
        call()
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("undisturbed") / "run")


def assert_goes_on(run: Path, undisturbed: Path) -> None:
    """Resume the run; it ends as the one that nothing happened to."""
    semiseg.train(resume=run)
    assert sorted(contents(run)) == CHECKPOINTS
    assert contents(run) == contents(undisturbed) and metrics(run) == metrics(undisturbed)
    assert (run / "report.html").is_file()


# A limit on the size of files, which every system has: the checkpoints no longer fit, all else does.


def test_a_checkpoint_that_does_not_fit_leaves_the_last_one_and_the_run_goes_on_after(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, limits = tmp_path / "run", resource.getrlimit(resource.RLIMIT_FSIZE)
    at_step(monkeypatch, 4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1])))
    try:
        said = refusal(lambda: train(run))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(run / "checkpoints" / "best.pt") in said or str(run / "checkpoints" / "last.pt") in said
    assert "File too large" in said and "checkpoints take up to" in said and f"semiseg train --resume {run}" in said
    assert not list((run / "checkpoints").glob(".*")), "half a file is in the way of what is written next"
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] == 2
    assert_goes_on(run, undisturbed)


# A small disk of its own, where one may be mounted.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB: a run's checkpoints fit, and there is some room beside them."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int = 0) -> Path:
    """Fill the disk, but for some bytes."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        while (free := shutil.disk_usage(folder).free) > left:
            file.write(bytes(min(free - left, 2**20)))
    return ballast


@pytest.mark.parametrize("left", [0, 600_000])
def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_after(
    undisturbed: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """Nothing fits any more; log and pictures do and checkpoints do not."""
    run = small_disk / "run"
    at_step(monkeypatch, 4, lambda: fill(small_disk, left))
    said = refusal(lambda: train(run))
    assert "No space left on device" in said and "checkpoints take up to" in said and "MB are free: make room" in said
    assert said.startswith(str(run))
    assert torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"] == 2
    (small_disk / "ballast").unlink()
    assert_goes_on(run, undisturbed)


def test_a_read_only_disk_leaves_the_last_checkpoint_and_the_run_goes_on_after(
    undisturbed: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = small_disk / "run"

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)

    class PulledOut(Exception):
        pass

    def pull() -> None:
        raise PulledOut

    at_step(monkeypatch, 4, pull)
    with pytest.raises(PulledOut):
        train(run)
    monkeypatch.undo()
    remount("ro")
    try:
        said = refusal(lambda: semiseg.train(resume=run))
    finally:
        remount("rw")
    assert said.startswith(f"{run}/.lock: cannot be written (Read-only file system): make it writable, then semiseg")
    assert_goes_on(run, undisturbed)


def test_a_run_that_vanishes_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    at_step(monkeypatch, 4, lambda: run.rename(tmp_path / "elsewhere"))
    arguments = [f"--{key.replace('_', '-')}={value}" for key, value in QUICK.items()]
    monkeypatch.setattr(sys, "argv", ["semiseg", "train", *arguments, "--out", str(run)])
    assert cli.main() == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"semiseg: {run}/") and "put the run's directory back, then semiseg train --resume" in said
    assert not run.exists(), "what is left of a run would look like one"
    assert torch.load(tmp_path / "elsewhere" / "checkpoints" / "last.pt", weights_only=True)["step"] == 2


# What is said before.


def test_the_size_that_is_said_is_that_of_the_files(tmp_path: Path) -> None:
    run = train(tmp_path / "run", method="mean-teacher", keep=2)
    files = contents(run)
    assert len(files) == 4  # and, while the next ones are written, a further last.pt and a third one kept
    taken = sum(map(len, files.values())) + len(files["last.pt"]) + len(files["best.pt"])
    line = next(line for line in (run / "log.txt").read_text().splitlines() if line.startswith("disk: "))
    said = float(line.split()[3]) * (1e9 if line.split()[4] == "GB" else 1e6)
    assert said == pytest.approx(taken, rel=0.05)


def test_too_little_room_is_refused_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    said = refusal(lambda: train(tmp_path / "run"))
    assert "0.1 MB are free there: make room, or choose another --out" in said
    assert not (tmp_path / "run").exists()


def test_where_nobody_knows_what_is_free_nothing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(path: object) -> None:
        raise OSError

    monkeypatch.setattr(disk.shutil, "disk_usage", unknown)
    assert require_room(tmp_path / "run", 3 * 10**9) == "disk: up to 3.0 GB for checkpoints"


def test_what_is_no_fault_of_the_disk_is_not_called_one(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), told_in_one_line(tmp_path):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


def test_sizes_in_words() -> None:
    assert [size(count) for count in (400_000, 75_400_000, 3_210_000_000)] == ["0.4 MB", "75 MB", "3.2 GB"]
