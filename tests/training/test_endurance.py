"""Long runs: constant memory and open files, no leftovers."""

from __future__ import annotations

import gc
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import semiseg
from semiseg.training.logging.sample_pictures import Samples

MINUTES = float(os.environ.get("SEMISEG_ENDURANCE_MINUTES", "60"))
WARM_MINUTES = min(5.0, MINUTES / 2)  # caches fill during this time
EVERY_S = 5.0
SHM = Path("/dev/shm")

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="requires /proc")


def children(process: int) -> list[int]:
    """Return all descendants of a process, parents first."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


def tree(process: int) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the process and its descendants with their /proc status; skip processes that have just exited."""
    for number in (process, *children(process)):
        try:
            lines = Path(f"/proc/{number}/status").read_text().splitlines()
        except OSError:
            continue
        yield number, dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def shared_memory(processes: set[int]) -> list[str]:
    """Return the files in /dev/shm created by the processes; PyTorch puts the process id into the names."""
    return [path.name for path in SHM.glob("torch_*") if int(path.name.split("_")[1]) in processes]


def open_files(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


def kilobytes(status: dict[str, str], *names: str) -> int:
    return sum(int(status.get(name, "0 kB").split()[0]) for name in names)


def median(series: list[tuple[float, int]], begin: float, end: float) -> float:
    """Return the median of the values between two times in minutes."""
    return statistics.median(value for minute, value in series if begin <= minute < end)


@pytest.mark.slow
def test_validations_leak_no_files_processes_or_tensors(
    _tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short version of the test below that counts objects instead of measuring memory."""
    counts, write, before = [], Samples.write, set(children(os.getpid()))

    def count(self: Samples, *arguments: Any) -> list[Path]:
        files = write(self, *arguments)
        gc.collect()
        tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
        counts.append((open_files(os.getpid()), len(set(children(os.getpid())) - before), tensors))
        return files

    monkeypatch.setattr(Samples, "write", count)
    monkeypatch.setattr("semiseg.workflows.train.report", lambda runs: None)
    options = {"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "labeled": "4"}
    options |= {"steps": 12, "val_every": 2, "workers": 2, "accelerator": "cpu", "threshold_mode": "none"}
    options |= {"val_limit": 1}
    semiseg.train(_tiny_source, "dual-teacher", tmp_path / "run", **options)
    assert len(counts) == 6 and counts[2][1] == 2
    # At the last validation, workers may have exited already.
    assert {(files, tensors) for files, _, tensors in counts[2:-1]} == {(counts[2][0], counts[2][2])}, counts
    assert set(children(os.getpid())) == before and not shared_memory({os.getpid()})


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(int(MINUTES * 60) + 900)
def test_memory_and_open_files_stay_constant(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = f"train --data shapes:images=40,val=6,test=3,size=48 --labeled 8 --method dual-teacher --steps {10**7}"
    command += " --batch-size 2 --crop-size 48 --weights none --accelerator cpu --workers 2 --val-every 100 --out"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    output = open(tmp_path / "output.txt", "wb")  # noqa: SIM115 (closed below)
    process = subprocess.Popen(
        [sys.executable, "-m", "semiseg.cli", *command.split(), str(run)], env=environment, stderr=output, stdout=output
    )
    memory: list[tuple[float, int]] = []
    resident: list[tuple[float, int]] = []
    files: list[tuple[float, int]] = []
    seen: set[int] = {process.pid}
    zombies: list[int] = []
    start = time.monotonic()
    while (minutes := (time.monotonic() - start) / 60) < MINUTES:
        time.sleep(EVERY_S)
        assert process.poll() is None, (tmp_path / "output.txt").read_text()[-2000:]
        found = dict(tree(process.pid))
        seen |= found.keys()
        memory.append((minutes, sum(kilobytes(status, "RssAnon", "RssShmem") for status in found.values())))
        resident.append((minutes, sum(kilobytes(status, "VmRSS") for status in found.values())))
        files.append((minutes, open_files(process.pid)))
        zombies += [number for number, status in found.items() if status["State"].startswith("Z")]
    process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=300)
    output.close()
    warm, end = (
        [median(series, begin, begin + WARM_MINUTES / 5) for series in (memory, files, resident)]
        for begin in (WARM_MINUTES, MINUTES - WARM_MINUTES / 5)
    )
    print(
        f"{MINUTES:g} min, {(run / 'log.txt').read_text().splitlines()[-1]}; {len(seen)} processes; zombies {zombies}"
    )
    for name, index in (("private memory", 0), ("resident memory", 2)):
        change = f"{end[index] / warm[index] - 1:+.2%}"
        print(f"{name}: {warm[index]:.0f} kB at {WARM_MINUTES:g} min, {end[index]:.0f} kB at the end, {change}")
    print(f"open files {warm[1]:g}, {end[1]:g}")
    assert status == 143
    # The kernel may reclaim pages of files, so resident memory is not checked.
    assert abs(end[0] / warm[0] - 1) <= 0.03
    assert warm[1] == end[1]
    assert not zombies and not shared_memory(seen)
    assert not any(Path(f"/proc/{number}").exists() for number in seen)
