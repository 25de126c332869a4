"""A run that was killed, at whatever moment, ends as if nothing had happened."""

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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import semiseg
from semiseg.errors import Interrupted, ReportedElsewhere, UserError
from semiseg.training.checkpoint import save_checkpoint
from semiseg.training.run_directory import RunDirectory
from semiseg.training.signals import interruptible
from toy import start_over

SEED = int(os.environ.get("SEMISEG_CRASH_SEED", "0"))  # of the moments at which runs are ended
SUITE = random.Random(SEED)

TIMES = ("time_s", "images_per_s", "data_wait_fraction")
# Twelve steps of Dual Teacher: three shifts and more, four validations, a checkpoint at each.
OPTIONS = (
    *("--data", "shapes:images=10,val=2,test=1,size=48", "--labeled", "4", "--method", "dual-teacher", "--steps", "12"),
    *("--batch-size", "2", "--crop-size", "32", "--val-every", "3", "--weights", "none", "--accelerator", "cpu"),
    *("--burn-in", "0.2", "--workers", "1", "--threshold-mode", "none"),
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


@dataclass(frozen=True)
class Blow:
    """A signal, to all processes of a run or to the first alone, at a moment: ``after`` a line and some seconds.

    ``aim``: from then on, the next moment at which a checkpoint is being written.
    """

    number: signal.Signals
    group: bool
    after: int
    seconds: float
    aim: bool = False

    def strike(self, process: subprocess.Popen[bytes], run: Path) -> tuple[int, str]:
        """Wait for the moment, send the signal, and return how the process ended, and what it said."""
        self.wait(process, lambda: lines(run) >= self.after)
        if self.aim:
            self.wait(process, lambda: any((run / "checkpoints").glob(".*.tmp")), pause=0)
        time.sleep(self.seconds)
        if process.poll() is None:
            (os.killpg if self.group else os.kill)(process.pid, self.number)
        _, said = process.communicate(timeout=240)
        return process.returncode, said.decode()

    @staticmethod
    def wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], pause: float = 0.002) -> None:
        deadline = time.monotonic() + 200
        while process.poll() is None and not ready():
            assert time.monotonic() < deadline
            time.sleep(pause)

    def ends(self) -> set[int]:
        """How a process may end: by the signal itself, as we decided, or well, where the blow came too late."""
        return {0, -self.number} if self.number == signal.SIGKILL else {0, -self.number, 128 + self.number}


def draw(rng: random.Random, number: signal.Signals) -> Blow:
    """A blow at a random moment: while it starts, in a step, or, every other one, while a checkpoint is written."""
    if rng.random() < 0.2:
        return Blow(number, rng.random() < 0.5, 0, rng.uniform(0, 6))
    aim = rng.random() < 0.5
    return Blow(number, rng.random() < 0.5, rng.randrange(1, 24), rng.uniform(0, 0.01 if aim else 0.2), aim)


def go_on(run: Path) -> subprocess.Popen[bytes]:
    """Resume the run, or start it where it ended before there was one: then nothing half made is left either."""
    return start("--resume", str(run)) if run.exists() else start(*OPTIONS, "--out", str(run))


def assert_says_how_to_go_on(said: str, number: signal.Signals, run: Path) -> None:
    """Of a process that finished its step and saved: it says so, at which step, and the command, as its last line."""
    step = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["step"]
    assert f"{number.name}: finishing the step and saving the run; Ctrl-C stops it at once\n" in said
    expected = f"semiseg: interrupted by {number.name}, saved at step {step}: go on by semiseg train --resume {run}"
    assert said.splitlines()[-1] == expected


@pytest.mark.parametrize(
    "blows",
    [
        # Before the first checkpoint; after it, in the midst of writing the next.
        [Blow(signal.SIGKILL, True, 1, 0), Blow(signal.SIGKILL, True, 9, 0, aim=True)],
        [Blow(signal.SIGTERM, True, SUITE.randrange(1, 18), SUITE.uniform(0, 0.1))],
        [Blow(signal.SIGINT, True, SUITE.randrange(1, 18), SUITE.uniform(0, 0.1))],
    ],
    ids=["killed twice", "terminated", "interrupted"],
)
def test_a_run_that_was_ended_goes_on_as_if_nothing_had_happened(
    undisturbed: Path, tmp_path: Path, blows: list[Blow]
) -> None:
    run = tmp_path / "run"
    for blow in blows:
        print(blow)
        status, said = blow.strike(go_on(run), run)
        assert status == (-blow.number if blow.number == signal.SIGKILL else 128 + blow.number)
        if blow.number != signal.SIGKILL:
            assert_says_how_to_go_on(said, blow.number, run)
    finish(go_on(run))
    assert_same(run, undisturbed)


@pytest.mark.long
def test_a_second_ctrl_c_stops_a_process_in_the_midst_of_its_step(tmp_path: Path) -> None:
    """At a step that takes many seconds: the first Ctrl-C waits for its end, the second does not, and saves nothing."""
    run = tmp_path / "run"
    process = start(*OPTIONS, "--batch-size", "8", "--crop-size", "256", "--out", str(run))
    assert process.stderr is not None
    Blow.wait(process, lambda: lines(run) >= 1)
    os.kill(process.pid, signal.SIGINT)
    while b"finishing the step" not in (line := process.stderr.readline()):
        assert line, "it ended before it said that it would"
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=240)
    assert process.returncode == 130
    assert said.decode().splitlines()[-1] == f"semiseg: interrupted by SIGINT: go on by semiseg train --resume {run}"
    assert not (run / "checkpoints" / "last.pt").exists()


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("attempt", range(20))
def test_ended_at_random_moments(undisturbed: Path, tmp_path: Path, attempt: int) -> None:
    rng, run = random.Random(f"{SEED} {attempt}"), tmp_path / "run"
    number = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGINT, signal.SIGUSR1)[attempt % 5]
    for blow in [draw(rng, number) for _ in range(rng.randint(1, 2))]:
        status, _ = blow.strike(go_on(run), run)
        print(f"seed {SEED}, attempt {attempt}: {blow} ended it with {status}")
        assert status in blow.ends()
    finish(go_on(run))
    assert_same(run, undisturbed)


def test_a_finished_run_is_left_as_it_is(undisturbed: Path) -> None:
    before = {name: (undisturbed / "checkpoints" / name).read_bytes() for name in ("last.pt", "best.pt")}
    lines_before = metrics(undisturbed)
    finish(start("--resume", str(undisturbed)))
    assert metrics(undisturbed) == lines_before
    assert {name: (undisturbed / "checkpoints" / name).read_bytes() for name in before} == before


# Signals and locks, in this process.


def test_the_first_signal_is_kept_until_the_run_is_saved_and_a_second_ctrl_c_is_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").touch()
    with interruptible(tmp_path) as interruption:
        interruption.patient = True
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)  # says the same again
        assert interruption.asked == signal.SIGUSR1
        assert capfd.readouterr().err.strip().startswith("SIGUSR1: finishing the step")
        with pytest.raises(Interrupted) as raised:
            os.kill(os.getpid(), signal.SIGINT)
    assert raised.value.status == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_said_names_the_run_and_the_command_can_be_copied(tmp_path: Path) -> None:
    run = tmp_path / "it's a run"
    said = []
    for _ in range(2):
        with pytest.raises(Interrupted) as raised, interruptible(run):
            os.kill(os.getpid(), signal.SIGTERM)  # not in the loop: at once
        assert raised.value.status == 143
        said.append(str(raised.value))
        run.mkdir(exist_ok=True)
        (run / "config.yaml").touch()
    assert "no run yet" in said[0]
    command = shlex.split(said[1].partition(": go on by ")[2])
    assert command == ["semiseg", "train", "--resume", str(run)]


def test_what_we_were_started_to_ignore_stays_ignored(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(tmp_path) as interruption:
            os.kill(os.getpid(), signal.SIGHUP)
        assert interruption.asked is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_processes_beside_the_first_end_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with interruptible(tmp_path, main=False) as interruption:
        interruption.patient = True
        os.kill(os.getpid(), signal.SIGTERM)
    assert isinstance(interruption.end(), ReportedElsewhere) and capfd.readouterr().err == ""


def test_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1] + '/.lock', 'a')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB); print('held', flush=True); time.sleep(60)"
    )
    other = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(other, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is training this run"), run.held():
            pass
        process.kill()
    with run.held() as note:  # the kernel has let go of it
        assert note == ""
        assert subprocess.run(other, capture_output=True, timeout=30).returncode == 1


def test_where_there_are_no_locks_it_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*arguments: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    with RunDirectory(tmp_path).held() as note:
        assert note.startswith("warning: this file system has no such locks") and "\n" not in note


# What a run that goes on refuses: then nothing of it has changed.

QUICK: dict[str, Any] = {
    **{"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0},
    **{"accelerator": "cpu", "method": "supervised", "steps": 4, "val_every": 2},
}


@pytest.fixture(scope="module")
def finished(_tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a run of four steps and two validations beside it."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(_tiny_source, folder / "data")
    semiseg.train(folder / "data", out=folder / "run", **QUICK)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run, on a copy of its data."""
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


def test_other_classes_or_colors_than_before_are_refused(run: Path) -> None:
    path = run.parent / "data" / "classes.json"
    content = json.loads(path.read_text())
    first, last = content["classes"][0], content["classes"][-1]
    path.write_text(json.dumps(content | {"classes": content["classes"][::-1]}))
    assert_refuses(run, f"the name of class 0 is '{last}' now and was '{first}'.*another --out")
    path.write_text(json.dumps(content | {"palette": content["palette"][::-1]}))
    assert_refuses(run, "the color of class 0 is .* now and was ")
    path.write_text(json.dumps(content))
    semiseg.train(resume=run)


@pytest.mark.parametrize("name", ["labeled", "val"])
def test_a_list_that_has_been_emptied_is_refused(run: Path, name: str) -> None:
    (run / "splits" / f"{name}.txt").write_text("\n")
    assert_refuses(run, f"splits/{name}.txt: the list is empty")


def test_a_run_whose_last_checkpoint_is_gone_does_not_start_over(run: Path) -> None:
    last = run / "checkpoints" / "last.pt"
    last.rename(run / "moved.pt")
    assert_refuses(run, r"last\.pt: there is none, though the run has got to step 4: put it back, or remove metrics")
    last.symlink_to(run / "elsewhere.pt")
    assert_refuses(run, r"last\.pt: a link that leads nowhere")
    last.unlink()
    last.symlink_to(run / "moved.pt")  # on another disk, say
    semiseg.train(resume=run)
    last.unlink()
    (run / "metrics.jsonl").unlink()
    assert_refuses(run, r"last\.pt: there is none, though the run has got to step")  # best.pt says so


def test_a_run_that_was_never_saved_starts_again_and_says_so(run: Path) -> None:
    """As a crash leaves it in the midst of its first validation: its lines and best.pt are there, last.pt is not."""
    whole = metrics(run)
    (run / "checkpoints" / "last.pt").unlink()
    (run / "report.html").unlink()
    text = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(line for line in text if json.loads(line)["step"] <= 2))
    best = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    save_checkpoint(run / "checkpoints" / "best.pt", best | {"step": 2})
    semiseg.train(resume=run)
    assert "the run ended before it was first saved: it starts again" in (run / "log.txt").read_text()
    assert metrics(run) == whole and (run / "checkpoints" / "last.pt").is_file()


def test_what_is_said_to_start_over_does(run: Path) -> None:
    start_over(run)
    semiseg.train(resume=run)
    assert (run / "checkpoints" / "last.pt").is_file()


@pytest.mark.parametrize("damage", [b"\xff", b"[1]", b'{"step": 1, "lo', b'{"loss": 1}', b"null"])
def test_a_damaged_line_amid_the_metrics_is_refused_and_the_lines_after_it_stay(run: Path, damage: bytes) -> None:
    path = run / "metrics.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([whole[0], damage + b"\n", *whole[2:]]))
    assert_refuses(run, r"metrics\.jsonl: line 2 is damaged: correct it, or take it out")
    path.write_bytes(b"".join([*whole, damage]))  # a crash may leave that
    semiseg.train(resume=run)
    assert path.read_bytes() == b"".join(whole)
