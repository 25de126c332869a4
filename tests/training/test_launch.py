"""Training on several ranks: the launcher, dead ranks, signals, torchrun, several machines, SLURM."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from timm.layers.norm_act import BatchNormAct2d

import semiseg
from commands import Command
from semiseg.config import TrainConfig
from semiseg.data import Shapes
from semiseg.errors import Interrupted, ProcessLost, ReportedElsewhere, TrainingStopped, UserError
from semiseg.methods import METHODS
from semiseg.training.build import make_method, synchronize_batchnorm
from semiseg.training.checkpoint import load_checkpoint
from semiseg.training.distributed.external_launcher import check_world_size, launch_id
from semiseg.training.distributed.fabric_setup import make_fabric
from semiseg.training.distributed.launch import find_cause, launch_directory
from semiseg.training.run_directory import RunDirectory

# Dual Teacher that sends itself a signal after a given step on a given rank (KILL="rank step signal").
CODE = """
import os
import torch
from semiseg.methods.dual_teacher import DualTeacher

class Fragile(DualTeacher):
    def train(self, mode=True):  # running statistics, no dropout, no drop path: the same on any number of ranks
        return super().train(False)

    def after_step(self, progress):
        super().after_step(progress)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        if os.environ.get("KILL", "").split()[:2] == [str(rank), str(progress.step)] and not restarted:
            os.kill(os.getpid(), int(os.environ["KILL"].split()[2]))
"""
OPTIONS = {
    **{"data": "shapes:images=10,val=3,test=1,size=48", "labeled": "4", "steps": 6, "batch_size": 4, "crop_size": 32},
    **{"val_every": 2, "weights": "none", "encoder": "test_resnet", "accelerator": "cpu", "workers": 0},
    **{"batchnorm": "frozen-encoder", "threshold_mode": "none", "scale_min": 1.0, "burn_in": 0.25},
}
NETWORKS = ("student", "teacher1", "teacher2", "teachers-average")
KILLED_AFTER_STEP_4 = f"3 {int(signal.SIGKILL)}"  # the last checkpoint is of step 2


@pytest.fixture(scope="module", autouse=True)
def default_sigint() -> Iterator[None]:
    """Child processes inherit an ignored SIGINT, as in a background job of a shell."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("code") / "fragile.py"
    path.write_text(CODE)
    return f"{path}:Fragile"


def arguments(method: str, out: Path, **options: object) -> list[str]:
    """Return arguments whose configuration file gives the number of steps, so that the command plans nothing."""
    file = out.with_name(f"{out.name}.yaml")
    file.write_text(yaml.safe_dump(OPTIONS | {"method": method} | options))
    return ["--config", str(file), "--out", str(out)]


def environment(method: str, **more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "SEMISEG_OWN_METHODS": method.partition(":")[0]} | more


def train(arguments: list[str], env: Mapping[str, str], folder: Path) -> tuple[int, str]:
    return Command(["train", *arguments], folder / "output.txt", env).finish()


def torchrun(*options: str) -> tuple[str, ...]:
    return ("-m", "torch.distributed.run", *options)


def checkpoints(run: Path) -> list[bytes]:
    return [(run / "checkpoints" / name).read_bytes() for name in ("last.pt", "best.pt")]


def processes_of(run: Path) -> list[int]:
    """Return the ids of running processes that train the run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(run).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def logged(run: Path) -> list[dict[str, Any]]:
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def resume_command(stderr: str, run: Path) -> list[str]:
    """Return the arguments of the command in the last line of stderr, which must resume the run."""
    command = shlex.split(stderr.splitlines()[-1].partition(" Resume with: ")[2])
    assert command == ["semiseg", "train", "--resume", str(run)], stderr
    return command[2:]


SCRIPT = """
import json, sys, semiseg

print("script runs once")
options = json.loads(sys.argv[1])
run = semiseg.train(devices=2, **options)
print(run)
try:
    semiseg.train(devices=2, **options)
except semiseg.UserError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def two(method: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks, trained by a script without ``if __name__ == "__main__"``."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT)
    options = json.dumps(OPTIONS | {"method": method, "out": str(folder / "run")})
    command = [sys.executable, str(folder / "script.py"), options]
    done = subprocess.run(command, env=environment(method), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    first, run, problem = done.stdout.splitlines()
    assert (first, run) == ("script runs once", str(folder / "run")) and run in problem and "exists" in problem
    assert "torch/distributed" not in done.stderr, "the log of the agent is not for users"
    assert done.stderr.count("find_unused_parameters") <= 1, "ranks other than 0 repeat no warning"
    command = json.loads((folder / "run" / "environment.json").read_text())["command"]
    assert command == f"semiseg {options}", "ranks record the arguments of the command that the user has given"
    return folder / "run"


@pytest.mark.slow
def test_two_ranks_write_one_log_and_count_every_pixel_once(two: Path) -> None:
    assert [line["step"] for line in logged(two) if "split" not in line] == [1, 2, 3, 4, 5, 6]
    validated = [(line["step"], line["network"]) for line in logged(two) if line.get("split") == "val"]
    assert validated == [(step, name) for step in (2, 4, 6) for name in NETWORKS]
    counts = json.loads((two / "confusion.json").read_text())["counts"]
    assert sum(map(sum, counts)) == 3 * 48 * 48  # three images


def stop(process: Command, number: signal.Signals, run: Path, group: bool) -> str:
    """Send a signal after a further step was logged, and return stderr; the run must save and name its step."""
    before = len(logged(run))
    wait_until(lambda: process.poll() is not None or len(logged(run)) > before)
    (os.killpg if group else os.kill)(process.pid, number)
    status, output = process.finish()
    assert status == 128 + number, output
    step = load_checkpoint(run / "checkpoints" / "last.pt")["step"]
    assert output.splitlines()[-1].startswith(f"semiseg: interrupted by {number.name}, saved at step {step}. Resume")
    assert "Traceback" not in output and output.count("semiseg: ") == 1, output
    return output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "numbers"),
    [
        (1, (signal.SIGINT,)),
        pytest.param(0, (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP), marks=pytest.mark.long),
    ],
)
def test_run_with_a_killed_rank_and_signals_resumes_exactly(
    method: str, two: Path, tmp_path: Path, rank: int, numbers: tuple[signal.Signals, ...]
) -> None:
    """The first signal goes to the process group, as Ctrl-C does, and the others only to the launcher."""
    run, env = tmp_path / "run", environment(method, RUN=str(tmp_path / "run"))
    kill = {"KILL": f"{rank} {KILLED_AFTER_STEP_4}"}
    status, output = train(arguments(method, run, devices=2), env | kill, tmp_path)
    assert status == 1
    reported = [line for line in output.splitlines() if line.startswith("semiseg: ")]
    assert len(reported) == 1 and "Traceback" not in output, output
    problem = f"semiseg: rank {rank} of 2 was killed by SIGKILL (often: out of memory). Resume with"
    assert reported[0].startswith(problem)
    assert processes_of(run) == []
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] == 2
    words = resume_command(output, run)
    for number, group in zip(numbers, (True, False, False), strict=False):
        resumed = Command(["train", *words], tmp_path / "output.txt", env)
        words = resume_command(stop(resumed, number, run, group), run)
        assert processes_of(run) == []
    status, output = train(words, env, tmp_path)
    assert status == 0, output
    assert checkpoints(run) == checkpoints(two)


@pytest.mark.slow
@pytest.mark.long
def test_second_ctrl_c_stops_all_ranks_in_the_middle_of_a_step(method: str, tmp_path: Path) -> None:
    run, env = tmp_path / "run", environment(method, RUN=str(tmp_path / "run"))
    words = arguments(method, run, devices=2, batch_size=16, crop_size=256, val_every=6)
    process = Command(["train", *words], tmp_path / "output.txt", env)
    wait_until(lambda: logged(run))
    os.killpg(process.pid, signal.SIGINT)
    wait_until(lambda: process.poll() is not None or "finishing the step" in process.output())
    os.killpg(process.pid, signal.SIGINT)
    status, output = process.finish()
    assert status == 130
    assert output.splitlines()[-1] == f"semiseg: interrupted by SIGINT. Resume with: semiseg train --resume {run}"
    assert not (run / "checkpoints" / "last.pt").exists() and processes_of(run) == []


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals the children of a killed process")
def test_ranks_stop_when_their_launcher_is_killed(method: str, tmp_path: Path) -> None:
    run, env = tmp_path / "run", environment(method, RUN=str(tmp_path / "run"))
    words = arguments(method, run, devices=2, steps=500, val_every=500)
    process = Command(["train", *words], tmp_path / "output.txt", env)
    wait_until(lambda: logged(run))
    os.kill(process.pid, signal.SIGKILL)
    assert process.finish()[0] == -signal.SIGKILL
    wait_until(lambda: not processes_of(run))
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] < 500


@pytest.mark.slow
@pytest.mark.long
def test_torchrun_restarts_a_run_from_its_last_checkpoint(method: str, two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = torchrun("--nproc-per-node", "2", "--max-restarts", "1")
    command = [sys.executable, *launcher, "-m", "semiseg.cli", "train", *arguments(method, run)]
    env = environment(method, KILL=f"1 {KILLED_AFTER_STEP_4}")
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Resuming from step 2 of 6 on 2 processes" in (run / "log.txt").read_text()
    assert "finishing the step" not in done.stderr, "a single rank cannot finish a step"
    assert checkpoints(run) == checkpoints(two)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def run_side_by_side(commands: list[list[str]], environments: list[dict[str, str]]) -> None:
    started = [
        subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for command, env in zip(commands, environments, strict=True)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(errors)


def assert_same_except_devices_and_nodes(run: Path, reference: Path) -> None:
    ours, theirs = (load_checkpoint(path / "checkpoints" / "last.pt") for path in (run, reference))
    for state in (ours, theirs):
        state["config"] = {k: v for k, v in state["config"].items() if k not in ("devices", "nodes")}
    assert ours["config"] == theirs["config"] and ours["step"] == theirs["step"] and ours["best"] == theirs["best"]
    assert ours["method"].keys() == theirs["method"].keys()
    assert all(torch.equal(value, theirs["method"][name]) for name, value in ours["method"].items())


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("launcher", ["torchrun", "semiseg"])
def test_two_machines_train_as_two_ranks_of_one(method: str, two: Path, tmp_path: Path, launcher: str) -> None:
    port, run = str(free_port()), tmp_path / "run"
    command = ["-m", "semiseg.cli", "train", *arguments(method, run, devices=1, nodes=2)]
    address = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port)
    ranks, variables = ("0", "1"), {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if launcher == "torchrun":
        commands = [[sys.executable, *torchrun("--node-rank", rank, *address), *command] for rank in ranks]
        run_side_by_side(commands, [environment(method)] * 2)
    else:
        environments = [environment(method, **variables, NODE_RANK=rank) for rank in ranks]
        run_side_by_side([[sys.executable, *command]] * 2, environments)
    assert_same_except_devices_and_nodes(run, two)


@pytest.mark.slow
@pytest.mark.long
def test_slurm_tasks_train_as_ranks_of_our_launcher(method: str, two: Path, tmp_path: Path) -> None:
    """Set the variables that srun sets, without SLURM itself."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "semiseg.cli", "train", *arguments(method, run)]
    job = {"SLURM_JOB_ID": "1234", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "127.0.0.1"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    job |= {"MASTER_PORT": str(free_port())}
    tasks = [environment(method, **job, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in ("0", "1")]
    run_side_by_side([command] * 2, tasks)
    assert_same_except_devices_and_nodes(run, two)


@pytest.mark.slow
@pytest.mark.long
def test_resume_on_another_number_of_ranks(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From one to two and back, the batches come in the same order: the weights agree to 1e-5."""
    options = OPTIONS | {"method": method}
    for name, value in environment(method).items():
        monkeypatch.setenv(name, value)
    semiseg.train(out=tmp_path / "one", **options)
    run = tmp_path / "many"
    monkeypatch.setenv("KILL", f"0 1 {int(signal.SIGTERM)}")
    with pytest.raises(Interrupted, match="saved at step 2"):
        semiseg.train(out=run, **options)
    one_rank_stops = environment(method, KILL=f"1 3 {int(signal.SIGTERM)}")
    status, output = train(["--resume", str(run), "--devices", "2"], one_rank_stops, tmp_path)
    assert status == 128 + signal.SIGTERM, output
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] == 4
    monkeypatch.delenv("KILL")
    semiseg.train(resume=run, devices=1)
    log = (run / "log.txt").read_text()
    assert "Resuming from step 2 of 6 on 2 processes\n" in log and "Resuming from step 4 of 6\n" in log
    one, many = (load_checkpoint(path / "checkpoints" / "last.pt")["method"] for path in (tmp_path / "one", run))
    assert one.keys() == many.keys()
    for name, value in one.items():
        torch.testing.assert_close(many[name], value, rtol=1e-5, atol=1e-5, msg=name)


# In this process.


@pytest.mark.slow
def test_directories_of_killed_launchers_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import time\nfrom semiseg.training.distributed.launch import launch_directory\n"
    code += "with launch_directory() as path:\n    print(path, flush=True)\n    time.sleep(600)"
    env = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    other = Path(process.stdout.readline().strip())
    (other / "call.pkl").touch()
    with launch_directory() as own:
        assert other.is_dir() and Path(own).is_dir(), "the other launcher is running"
    process.kill()
    process.communicate()
    with launch_directory() as own:
        assert [str(path) for path in tmp_path.iterdir()] == [own]
    assert not any(tmp_path.iterdir())


def test_torchrun_decides_the_number_of_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_world_size(TrainConfig()) == TrainConfig()  # without a launcher
    variables = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    expected = TrainConfig(devices=4, nodes=2)
    assert check_world_size(TrainConfig()) == check_world_size(TrainConfig(nodes=2)) == expected
    assert check_world_size(expected) == expected
    for devices, nodes in ((2, 2), (4, 1), (8, 1), ("auto", 3)):
        with pytest.raises(UserError, match="torchrun has started 4 processes on each of 2 mach") as raised:
            check_world_size(TrainConfig(devices=devices, nodes=nodes))
        assert not isinstance(raised.value, ReportedElsewhere)
    with pytest.raises(UserError, match=r"--batch-size: 6 does not divide by 8 processes\. Use a multiple of 8"):
        check_world_size(TrainConfig(batch_size=6))
    monkeypatch.setenv("RANK", "5")
    with pytest.raises(ReportedElsewhere):
        check_world_size(TrainConfig(devices=2))


def test_only_the_same_torchrun_and_command_continue_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from semiseg.data.splits.dataset_split import resolve_split
    from semiseg.methods.supervised import Supervised

    data, options = "shapes:images=4,val=1,test=1,size=48", Supervised.Options()
    config = TrainConfig(data=data, method="supervised")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    dataset = Shapes(images=4, val=1, test=1, size=48)
    run = RunDirectory.create(tmp_path / "run", config, options, dataset, resolve_split(dataset, None, 0))
    assert run.belongs_to_this_launch(config, options)
    assert run.belongs_to_this_launch(
        TrainConfig(**(vars(config) | {"devices": 3})), options
    )  # fewer machines are left
    assert not run.belongs_to_this_launch(TrainConfig(**(vars(config) | {"seed": 1})), options)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
    assert not run.belongs_to_this_launch(config, options)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert launch_id() is None and not run.belongs_to_this_launch(config, options)


def failure(exitcode: int, timestamp: int = 0) -> Any:
    return SimpleNamespace(exitcode=exitcode, timestamp=timestamp)


LOST = ProcessLost("lost the connection")
TERMINATED = Interrupted("interrupted by SIGTERM", 143)


@pytest.mark.parametrize(
    ("outcomes", "failures", "received", "expected"),
    [
        ({0: LOST}, {0: failure(1), 1: failure(-9)}, None, "rank 1 of 4 was killed by SIGKILL"),
        ({}, {0: failure(1), 2: failure(-11)}, None, "rank 2 of 4 was killed by SIGSEGV. Again"),
        ({}, {0: failure(-9, 30), 2: failure(1)}, None, "rank 2 of 4 exited with status 1, see above. Again"),
        ({0: TERMINATED}, {0: failure(143), 1: failure(1), 2: failure(-15)}, None, "rank 1 of 4 exited with status 1"),
        ({0: LOST, 1: LOST}, {0: failure(1), 1: failure(1), 2: failure(-15)}, None, "lost the connection"),
        ({}, {2: failure(-15)}, None, "interrupted by SIGTERM. Again"),
        ({0: LOST, 3: UserError("no disk")}, {0: failure(1), 3: failure(2)}, None, "no disk"),
        ({0: TrainingStopped("nan"), 1: TrainingStopped("nan")}, {0: failure(1), 1: failure(1)}, None, "nan"),
        ({0: TERMINATED, 1: ReportedElsewhere("")}, {0: failure(143)}, None, "interrupted by SIGTERM"),
        ({0: TERMINATED, 1: ReportedElsewhere("")}, {}, signal.SIGTERM, "interrupted by SIGTERM"),
        ({}, {}, signal.SIGINT, "interrupted by SIGINT. Again"),
        ({0: ReportedElsewhere("x")}, {}, None, "another machine"),
    ],
)
def test_cause_is_reported_and_not_its_consequences(
    outcomes: dict[int, Any], failures: dict[int, Any], received: signal.Signals | None, expected: str
) -> None:
    assert str(find_cause(outcomes, failures, received, 4, lambda: "Again")).startswith(expected)


# Batch statistics over all ranks.


@pytest.mark.parametrize("name", METHODS)
def test_synchronized_batchnorm_keeps_names_weights_and_outputs(name: str) -> None:
    encoder = "tf_efficientnet_lite0" if name == "dual-teacher" else "test_efficientnet"  # has no branch to drop
    config = TrainConfig(method=name, encoder=encoder, weights="none")
    options, data = METHODS[name].Options(), Shapes(images=2, val=1, test=1, size=48)
    plain, method = (make_method(config, options, data) for _ in range(2))
    parameters = dict(method.named_parameters())
    kinds = {key for key, module in plain.named_modules() if isinstance(module, torch.nn.BatchNorm2d | BatchNormAct2d)}
    assert kinds
    if encoder == "test_efficientnet":
        assert any(isinstance(module, BatchNormAct2d) for module in plain.modules())
    method = synchronize_batchnorm(method)
    synchronized = {key for key, module in method.named_modules() if isinstance(module, torch.nn.SyncBatchNorm)}
    assert synchronized == kinds
    assert plain.state_dict().keys() == method.state_dict().keys()
    plain.load_state_dict(method.state_dict())
    assert all(value is parameters[key] for key, value in method.named_parameters())  # those of the optimizer
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(plain.eval().student(images), method.eval().student(images))  # one folds BatchNorm


def test_slurm_batch_script_is_not_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    for devices in (1, 2):
        fabric = make_fabric(TrainConfig(accelerator="cpu", devices=devices))
        assert fabric.world_size == devices
    assert isinstance(fabric._connector._cluster_environment_flag, LightningEnvironment)
    for name in ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID"):  # set by srun
        monkeypatch.setenv(name, "0")
    assert isinstance(
        make_fabric(TrainConfig(accelerator="cpu", devices=2)).strategy.cluster_environment, SLURMEnvironment
    )


def test_synchronized_batchnorm_needs_gpus_or_a_single_process() -> None:
    with pytest.raises(UserError, match="--batchnorm: sync works on GPUs only"):
        make_fabric(TrainConfig(batchnorm="sync", accelerator="cpu", devices=2))
    assert make_fabric(TrainConfig(batchnorm="sync", accelerator="cpu")).world_size == 1
