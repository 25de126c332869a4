"""A run that was killed or interrupted at any moment resumes as if it had never stopped."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import semiseg
from commands import Command
from semiseg.errors import Interrupted, ReportedElsewhere, UserError
from semiseg.training.checkpoint import save_checkpoint
from semiseg.training.run_directory import RunDirectory
from semiseg.training.signals import SignalHandler, handle_signals
from toy import start_over

pytestmark = pytest.mark.usefixtures("quick_module")

SEED = int(os.environ.get("SEMISEG_CRASH_SEED", "0"))  # of the moments at which runs are stopped
SUITE = random.Random(SEED)

TIMES = ("time_s", "images_per_s", "data_wait_fraction")
# Dual Teacher with at least three shifts and a checkpoint at each of four validations.
OPTIONS = (
    *("--data", "shapes:images=10,val=2,test=1,size=48", "--labeled", "4", "--method", "dual-teacher", "--steps", "12"),
    *("--batch-size", "2", "--crop-size", "32", "--val-every", "3", "--weights", "none", "--accelerator", "cpu"),
    *("--burn-in", "0.2", "--workers", "1", "--threshold-mode", "none", "--encoder", "test_resnet"),
)


@pytest.fixture(scope="module", autouse=True)
def default_sigint() -> Iterator[None]:
    """Child processes and Python inherit an ignored SIGINT, as in a background job of a shell."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def start(run: Path) -> Command:
    """Resume the run, or start it if it does not exist yet. A run directory must never be half created."""
    arguments = ("--resume", str(run)) if run.exists() else (*OPTIONS, "--out", str(run))
    return Command(["train", *arguments], run.with_name("output.txt"))


def finish(run: Path) -> None:
    status, output = start(run).finish()
    assert status == 0, output


def lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def resumes(run: Path) -> int:
    path = run / "log.txt"
    return path.read_text().count("Resuming from step") if path.exists() else 0


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
    finish(run)
    assert {line["step"] for line in metrics(run)} == set(range(1, 13))
    assert any(line.get("loss/unsupervised") for line in metrics(run)), "the run must reach the shifts of the teachers"
    return run


@dataclass(frozen=True)
class TimedSignal:
    """A signal at a certain moment of a run.

    Attributes:
        number: The signal.
        group: Whether it goes to all processes of the run instead of the first one.
        after: The number of lines in metrics.jsonl to wait for.
        seconds: Further delay.
        saving: Whether to wait for the next moment at which a checkpoint is being written, before the delay.
    """

    number: signal.Signals
    group: bool
    after: int
    seconds: float
    saving: bool = False

    def send(self, process: Command, run: Path) -> tuple[int, str]:
        """Wait for the moment, send the signal, and return exit status and stderr of the process."""
        resumed = resumes(run)
        if self.after and (run / "checkpoints" / "last.pt").exists():  # wait for lines of this process
            self.wait(process, lambda: resumes(run) > resumed)
        self.wait(process, lambda: lines(run) >= self.after)
        if self.saving:
            self.wait(process, lambda: any((run / "checkpoints").glob(".*.tmp")), pause=0)
        time.sleep(self.seconds)
        if process.poll() is None:
            (os.killpg if self.group else os.kill)(process.pid, self.number)
        return process.finish()

    @staticmethod
    def wait(process: Command, ready: Callable[[], bool], pause: float = 0.002) -> None:
        deadline = time.monotonic() + 200
        while process.poll() is None and not ready():
            assert time.monotonic() < deadline
            time.sleep(pause)

    def expected_statuses(self) -> set[int]:
        """Return the possible exit statuses; 0 if the signal comes too late."""
        return {0, -self.number} if self.number == signal.SIGKILL else {0, -self.number, 128 + self.number}


def random_timed_signal(rng: random.Random, number: signal.Signals) -> TimedSignal:
    """Return a signal at a random moment: at the start, in a step, or, every other time, while saving."""
    if rng.random() < 0.2:
        return TimedSignal(number, rng.random() < 0.5, 0, rng.uniform(0, 6))
    saving = rng.random() < 0.5
    return TimedSignal(
        number, rng.random() < 0.5, rng.randrange(1, 24), rng.uniform(0, 0.01 if saving else 0.2), saving
    )


def assert_reports_resume_command(stderr: str, number: signal.Signals, run: Path) -> None:
    """The run must announce that it saves and name the step and the resume command in its last line."""
    step = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"]
    assert f"{number.name}: finishing the step and saving the run; Ctrl-C stops it at once\n" in stderr
    reported = f"semiseg: interrupted by {number.name}, saved at step {step}. "
    assert stderr.splitlines()[-1] == f"{reported}Resume with: semiseg train --resume {run}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "timed_signals",
    [
        # Before the first checkpoint, then while the next one is written, then two signals that save.
        [
            TimedSignal(signal.SIGKILL, True, 1, 0),
            TimedSignal(signal.SIGKILL, True, 9, 0, saving=True),
            TimedSignal(signal.SIGTERM, True, SUITE.randrange(10, 13), SUITE.uniform(0, 0.1)),
            TimedSignal(signal.SIGINT, True, SUITE.randrange(16, 19), SUITE.uniform(0, 0.1)),
        ],
    ],
    ids=["killed twice, terminated, interrupted"],
)
def test_stopped_run_resumes_exactly(undisturbed: Path, tmp_path: Path, timed_signals: list[TimedSignal]) -> None:
    run = tmp_path / "run"
    for timed_signal in timed_signals:
        print(timed_signal)
        status, stderr = timed_signal.send(start(run), run)
        killed = timed_signal.number == signal.SIGKILL
        assert status == (-timed_signal.number if killed else 128 + timed_signal.number), stderr
        if timed_signal.number != signal.SIGKILL:
            assert_reports_resume_command(stderr, timed_signal.number, run)
    finish(run)
    assert_same(run, undisturbed)
    finish(run)  # a finished run stays as it is
    assert_same(run, undisturbed)


@pytest.mark.slow
@pytest.mark.long
def test_second_ctrl_c_stops_in_the_middle_of_a_step(tmp_path: Path) -> None:
    """A step takes many seconds here: the first Ctrl-C waits for its end, the second does not and saves nothing."""
    run = tmp_path / "run"
    arguments = ["train", *OPTIONS, "--batch-size", "8", "--crop-size", "256", "--out", str(run)]
    process = Command(arguments, tmp_path / "output.txt")
    TimedSignal.wait(process, lambda: lines(run) >= 1)
    os.kill(process.pid, signal.SIGINT)
    TimedSignal.wait(process, lambda: "finishing the step" in process.output())
    os.kill(process.pid, signal.SIGINT)
    status, output = process.finish()
    assert status == 130
    expected = f"semiseg: interrupted by SIGINT. Resume with: semiseg train --resume {run}"
    assert output.splitlines()[-1] == expected
    assert not (run / "checkpoints" / "last.pt").exists()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("attempt", range(20))
def test_run_stopped_at_random_moments_resumes_exactly(undisturbed: Path, tmp_path: Path, attempt: int) -> None:
    rng, run = random.Random(f"{SEED} {attempt}"), tmp_path / "run"
    number = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGUSR1)[attempt % 5]
    for timed_signal in [random_timed_signal(rng, number) for _ in range(rng.randint(1, 2))]:
        status, _ = timed_signal.send(start(run), run)
        print(f"seed {SEED}, attempt {attempt}: {timed_signal} ended with status {status}")
        assert status in timed_signal.expected_statuses()
    finish(run)
    assert_same(run, undisturbed)


# Signals and locks, in this process.


def test_first_signal_is_deferred_and_second_ctrl_c_is_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").touch()
    with handle_signals(handler := SignalHandler(tmp_path)):
        handler.deferred = True
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # ignored: many programs send several signals to stop one
        assert handler.received == signal.SIGUSR1
        assert capfd.readouterr().err.strip().startswith("SIGUSR1: finishing the step")
        with pytest.raises(Interrupted) as raised:
            os.kill(os.getpid(), signal.SIGINT)
    assert raised.value.status == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_after_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    """torchrun's agent sends it when the user presses Ctrl-C for the second time."""
    with handle_signals(handler := SignalHandler(tmp_path, world_size=2)):
        handler.deferred = True
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted) as raised:
            os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.status == 130


def test_interruption_names_a_command_that_can_be_copied(tmp_path: Path) -> None:
    run = tmp_path / "it's a run"
    messages = []
    for _ in range(2):
        with pytest.raises(Interrupted) as raised, handle_signals(SignalHandler(run)):
            os.kill(os.getpid(), signal.SIGTERM)  # raises at once outside of the training loop
        assert raised.value.status == 143
        messages.append(str(raised.value))
        run.mkdir(exist_ok=True)
        (run / "config.yaml").touch()
    assert "has not started yet. Run the same command again" in messages[0]
    command = shlex.split(messages[1].partition(" Resume with: ")[2])
    assert command == ["semiseg", "train", "--resume", str(run)]


def test_ignored_signals_stay_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_signals(handler := SignalHandler(tmp_path)):
            os.kill(os.getpid(), signal.SIGHUP)
        assert handler.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_only_rank_zero_reports_a_signal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for rank in (0, 1):
        with handle_signals(handler := SignalHandler(tmp_path, rank, world_size=2)):
            handler.deferred = True
            os.kill(os.getpid(), signal.SIGTERM)  # may come from the launcher after another rank has died
        assert capfd.readouterr().err == ""
        assert isinstance(handler.interruption(), Interrupted if rank == 0 else ReportedElsewhere)


def test_lock_admits_one_process_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1] + '/.lock', 'a')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB); print('held', flush=True); time.sleep(60)"
    )
    other = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(other, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is training this run"), run.lock():
            pass
        process.kill()
    with run.lock() as note:  # the kernel has released the lock
        assert note == ""
        assert subprocess.run(other, capture_output=True, timeout=30).returncode == 1


def test_missing_locks_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    with RunDirectory(tmp_path).lock() as note:
        assert note.startswith("warning: this file system does not support locks") and "\n" not in note


# What resume refuses, leaving the run unchanged.

QUICK: dict[str, Any] = {
    **{"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0},
    **{"accelerator": "cpu", "method": "supervised", "steps": 4, "val_every": 2},
}


@pytest.fixture(scope="module")
def finished(_tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set and a run of four steps and two validations."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(_tiny_source, folder / "data")
    semiseg.train(folder / "data", out=folder / "run", **QUICK)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run with a copy of its data."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(str(finished), str(tmp_path)))
    return tmp_path / "run"


def assert_refuses(run: Path, pattern: str) -> None:
    def kept() -> dict[str, bytes]:
        files = [*run.glob("*.jsonl"), *run.glob("checkpoints/*")]
        return {path.name: path.read_bytes() for path in files if path.is_file()}

    before = kept()
    with pytest.raises(UserError, match=pattern) as refused:
        semiseg.train(resume=run)
    assert "\n" not in str(refused.value)
    assert kept() == before


@pytest.mark.slow
def test_resume_fails_with_other_classes_or_colors(run: Path) -> None:
    path = run.parent / "data" / "classes.json"
    content = json.loads(path.read_text())
    first, last = content["classes"][0], content["classes"][-1]
    path.write_text(json.dumps(content | {"classes": content["classes"][::-1]}))
    assert_refuses(run, f"the name of class 0 is '{last}' and was '{first}'.*another --out")
    path.write_text(json.dumps(content | {"palette": content["palette"][::-1]}))
    assert_refuses(run, "the color of class 0 is .* and was ")
    path.write_text(json.dumps(content))
    semiseg.train(resume=run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labeled", "val"])
def test_resume_fails_with_an_empty_list(run: Path, name: str) -> None:
    (run / "splits" / f"{name}.txt").write_text("\n")
    assert_refuses(run, f"splits/{name}.txt: the list is empty")


@pytest.mark.slow
def test_resume_fails_without_the_last_checkpoint(run: Path) -> None:
    last = run / "checkpoints" / "last.pt"
    last.rename(run / "moved.pt")
    assert_refuses(run, r"last\.pt: is missing, but the run has reached step 4. Restore it, or remove metrics")
    last.symlink_to(run / "elsewhere.pt")
    assert_refuses(run, r"last\.pt: is a broken link")
    last.unlink()
    last.symlink_to(run / "moved.pt")  # for example on another disk
    semiseg.train(resume=run)
    last.unlink()
    (run / "metrics.jsonl").unlink()
    assert_refuses(run, r"last\.pt: is missing, but the run has reached step")  # best.pt shows it


@pytest.mark.slow
def test_resume_starts_again_if_nothing_was_saved(run: Path) -> None:
    """A crash during the first validation leaves log lines and best.pt, but not last.pt."""
    whole = metrics(run)
    (run / "checkpoints" / "last.pt").unlink()
    text = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in text if json.loads(line)["step"] <= 2))
    best = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    save_checkpoint(run / "checkpoints" / "best.pt", best | {"step": 2})
    semiseg.train(resume=run)
    assert "The run stopped before its first checkpoint. Starting again from step 0." in (run / "log.txt").read_text()
    assert metrics(run) == whole and (run / "checkpoints" / "last.pt").is_file()


@pytest.mark.slow
def test_documented_steps_to_start_over_work(run: Path) -> None:
    start_over(run)
    semiseg.train(resume=run)
    assert (run / "checkpoints" / "last.pt").is_file()


@pytest.mark.slow
def test_resume_fails_with_a_damaged_metrics_line(run: Path) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    damages = (b"\xff", b"[1]", b'{"step": 1, "lo', b'{"loss": 1}', b"null")
    for damage in damages:
        path.write_bytes(b"".join([whole[0], damage + b"\n", *whole[2:]]))
        assert_refuses(run, r"metrics\.jsonl: line 2 is damaged\. Correct or remove the line")
    for damage in damages:
        path.write_bytes(b"".join([*whole, damage]))  # a crash may cut the last line short
        semiseg.train(resume=run)
        assert path.read_bytes() == b"".join(whole)
