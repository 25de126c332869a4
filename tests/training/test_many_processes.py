"""Runs on several processes: one that ends, another number of them, torchrun, several machines, SLURM."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from timm.layers.norm_act import BatchNormAct2d

import semiseg
from semiseg.config import TrainConfig
from semiseg.data import Shapes
from semiseg.errors import Interrupted, ProcessLost, ReportedElsewhere, UserError
from semiseg.methods import METHODS
from semiseg.training.build import make_method, synchronize_batchnorm
from semiseg.training.checkpoint import load_checkpoint
from semiseg.training.distributed import process_group as peers
from semiseg.training.distributed import watch
from semiseg.training.distributed.fabric_setup import make_fabric
from semiseg.training.distributed.launch import launch_id, placed
from semiseg.training.run_directory import RunDirectory

# Dual Teacher, which ends itself where it is told to: a moment that needs no waiting for.
CODE = """
import os
import torch
from semiseg.methods.dual_teacher import DualTeacher

class Fragile(DualTeacher):
    def train(self, mode=True):  # batch normalization by its running statistics, no dropout, no drop path
        return super().train(False)

    def after_step(self, progress):
        super().after_step(progress)
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        if os.environ.get("BLOW", "").split()[:2] == [str(rank), str(progress.step)] and not again:
            os.kill(os.getpid(), int(os.environ["BLOW"].split()[2]))
"""
OPTIONS = {
    **{"data": "shapes:images=10,val=3,test=1,size=48", "labeled": "4", "steps": 6, "batch_size": 4, "crop_size": 32},
    **{"val_every": 2, "weights": "none", "encoder": "test_resnet", "accelerator": "cpu", "workers": 0},
    **{"batchnorm": "frozen-encoder", "threshold_mode": "none", "scale_min": 1.0},
}
KILLED_AFTER_THE_FOURTH_STEP = "3 9"  # SIGKILL; the last checkpoint is of the second


@pytest.fixture(scope="module")
def method(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("code") / "fragile.py"
    path.write_text(CODE)
    return f"{path}:Fragile"


def words(method: str, out: Path, **options: object) -> list[str]:
    given = OPTIONS | {"burn_in": 0.25, "method": method, "out": out} | options
    return [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def environment(method: str, **more: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "SEMISEG_OWN_METHODS": method.partition(":")[0]} | more


def train(arguments: list[str], env: Mapping[str, str], *launcher: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "-m", "semiseg.cli", "train", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)


def torchrun(*options: str) -> tuple[str, ...]:
    return ("-m", "torch.distributed.run", *options)


def checkpoints(run: Path) -> list[bytes]:
    return [(run / "checkpoints" / name).read_bytes() for name in ("last.pt", "best.pt")]


def processes_of(run: Path) -> list[str]:
    """The command lines of processes that are at work on a run, their loader processes among them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(run) in command and "pytest" not in command:
            found.append(command)
    return found


@pytest.fixture(scope="module")
def two(method: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two processes that nothing has disturbed."""
    run = tmp_path_factory.mktemp("two") / "run"
    done = train(words(method, run, devices=2), environment(method))
    assert done.returncode == 0, done.stderr
    return run


def check_what_a_death_leaves(method: str, two: Path, run: Path, rank: int) -> str:
    env = environment(method)
    blow = {"BLOW": f"{rank} {KILLED_AFTER_THE_FOURTH_STEP}"}
    ended = train(words(method, run, devices=2), env | blow)  # which is not waited for as long as gloo's half an hour
    assert ended.returncode == (1 if rank else -signal.SIGKILL)
    told = [line for line in ended.stderr.splitlines() if line.startswith("semiseg: ")]
    assert len(told) == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert processes_of(run) == []
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] == 2
    command = shlex.split(told[0].partition(": go on by ")[2])
    assert command == ["semiseg", "train", "--resume", str(run)]
    resumed = train(command[2:], env)
    assert resumed.returncode == 0, resumed.stderr
    assert checkpoints(run) == checkpoints(two)
    return told[0]


def test_where_one_process_is_killed_all_end_and_the_run_goes_on_as_if_nothing_had_happened(
    method: str, two: Path, tmp_path: Path
) -> None:
    told = check_what_a_death_leaves(method, two, tmp_path / "run", rank=1)
    assert told.startswith("semiseg: rank 1 of 2 was ended by SIGKILL (out of memory, if nobody sent it), and the run")


@pytest.mark.long
def test_where_the_first_process_is_killed_another_one_tells(method: str, two: Path, tmp_path: Path) -> None:
    told = check_what_a_death_leaves(method, two, tmp_path / "run", rank=0)
    assert told.startswith("semiseg: rank 0 of 2 has ended (killed, out of memory, or as it has said), and the run")


@pytest.mark.long
def test_torchrun_starts_a_run_again_which_goes_on_by_itself(method: str, two: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = torchrun("--nproc-per-node", "2", "--max-restarts", "1")
    blow = environment(method, BLOW=f"1 {KILLED_AFTER_THE_FOURTH_STEP}")
    done = train(words(method, run), blow, *launcher)  # nothing says how many processes there are but torchrun
    assert done.returncode == 0, done.stderr
    assert "rank 1 of 2 has ended" in done.stderr and "torchrun starts it again (1 of 1 times)" in done.stderr
    assert "resumed at step 2 of 6 on 2 processes" in (run / "log.txt").read_text()
    assert "finishing the step" not in done.stderr  # which it cannot, alone
    assert checkpoints(run) == checkpoints(two)


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def together(commands: list[list[str]], environments: list[dict[str, str]]) -> None:
    """Run commands side by side to their ends."""
    started = [
        subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for command, env in zip(commands, environments, strict=True)
    ]
    try:
        ends = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(ends)


def assert_same_but_for_devices_and_nodes(run: Path, reference: Path) -> None:
    ours, theirs = (load_checkpoint(path / "checkpoints" / "last.pt") for path in (run, reference))
    for state in (ours, theirs):
        state["config"] = {k: v for k, v in state["config"].items() if k not in ("devices", "nodes")}
    assert ours["config"] == theirs["config"] and ours["step"] == theirs["step"] and ours["best"] == theirs["best"]
    assert ours["method"].keys() == theirs["method"].keys()
    assert all(torch.equal(value, theirs["method"][name]) for name, value in ours["method"].items())


@pytest.mark.long
def test_two_machines_train_as_two_processes_of_one(method: str, two: Path, tmp_path: Path) -> None:
    port, run = str(free_port()), tmp_path / "run"
    place = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port)
    command = ["-m", "semiseg.cli", "train", *words(method, run, devices=1, nodes=2)]
    commands = [[sys.executable, *torchrun("--node-rank", rank, *place), *command] for rank in ("0", "1")]
    together(commands, [environment(method)] * 2)
    assert_same_but_for_devices_and_nodes(run, two)


@pytest.mark.long
def test_tasks_of_slurm_train_as_processes_that_we_start(method: str, two: Path, tmp_path: Path) -> None:
    """By the variables that srun sets; SLURM itself is not at hand."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "semiseg.cli", "train", *words(method, run)]
    job = {"SLURM_JOB_ID": "1234", "SLURM_JOB_NAME": "train", "SLURM_STEP_ID": "0", "SLURM_NODELIST": "127.0.0.1"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_NODEID": "0"}
    job |= {"MASTER_PORT": str(free_port())}
    tasks = [environment(method, **job, SLURM_PROCID=rank, SLURM_LOCALID=rank) for rank in ("0", "1")]
    together([command] * 2, tasks)
    assert_same_but_for_devices_and_nodes(run, two)


@pytest.mark.long
def test_a_run_goes_on_on_another_number_of_processes(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one to two and back: the same batches in the same order, hence the same weights to 1e-5."""
    options = OPTIONS | {"burn_in": 0.25, "method": method}
    for name, value in environment(method).items():
        monkeypatch.setenv(name, value)
    semiseg.train(out=tmp_path / "one", **options)
    run = tmp_path / "many"
    monkeypatch.setenv("BLOW", f"0 1 {int(signal.SIGTERM)}")
    with pytest.raises(Interrupted, match="saved at step 2"):
        semiseg.train(out=run, **options)
    stopped = environment(method, BLOW=f"1 3 {int(signal.SIGTERM)}")
    assert train(["--resume", str(run), "--devices", "2"], stopped).returncode == 128 + signal.SIGTERM
    assert load_checkpoint(run / "checkpoints" / "last.pt")["step"] == 4
    monkeypatch.delenv("BLOW")
    semiseg.train(resume=run, devices=1)
    with pytest.raises(UserError, match="--batch-size 4 does not divide by 3 processes: take a multiple"):
        semiseg.train(resume=run, devices=3)
    told = (run / "log.txt").read_text()
    assert "resumed at step 2 of 6 on 2 processes\n" in told and "resumed at step 4 of 6\n" in told
    one, many = (load_checkpoint(path / "checkpoints" / "last.pt")["method"] for path in (tmp_path / "one", run))
    assert one.keys() == many.keys()
    for name, value in one.items():
        torch.testing.assert_close(many[name], value, rtol=1e-5, atol=1e-5, msg=name)


# In this process.


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert placed(TrainConfig()) == TrainConfig()  # nobody has started any
    there = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4", "RANK": "0"}
    for name, value in there.items():
        monkeypatch.setenv(name, value)
    expected = TrainConfig(devices=4, nodes=2)
    assert placed(TrainConfig()) == placed(TrainConfig(nodes=2)) == placed(expected) == expected
    for devices, nodes in ((2, 2), (4, 1), (8, 1), ("auto", 3)):
        with pytest.raises(UserError, match="torchrun has started 4 processes on each of 2 mach") as raised:
            placed(TrainConfig(devices=devices, nodes=nodes))
        assert not isinstance(raised.value, ReportedElsewhere)
    with pytest.raises(UserError, match="--batch-size 6 does not divide by 8 processes"):
        placed(TrainConfig(batch_size=6))
    monkeypatch.setenv("RANK", "5")
    with pytest.raises(ReportedElsewhere):
        placed(TrainConfig(devices=2))


def test_a_run_of_another_torchrun_or_command_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from semiseg.data.splits.dataset_split import resolve_split
    from semiseg.methods.supervised import Supervised

    config, options = (
        TrainConfig(data="shapes:images=4,val=1,test=1,size=48", method="supervised"),
        Supervised.Options(),
    )
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
    dataset = Shapes(images=4, val=1, test=1, size=48)
    run = RunDirectory.create(tmp_path / "run", config, options, dataset, resolve_split(dataset, None, 0))
    assert run.is_of_this_launch(config, options)
    assert run.is_of_this_launch(TrainConfig(**(vars(config) | {"devices": 3})), options)  # of machines fewer are left
    assert not run.is_of_this_launch(TrainConfig(**(vars(config) | {"seed": 1})), options)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
    assert not run.is_of_this_launch(config, options)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert launch_id() is None and not run.is_of_this_launch(config, options)


def test_a_process_that_has_ended_is_told_from_one_at_work() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert watch.alive(process.pid)
        process.kill()
        while Path(f"/proc/{process.pid}/stat").exists() and watch.alive(process.pid):
            time.sleep(0.01)
        assert not watch.alive(process.pid)  # its parent has not asked yet
    assert not watch.alive(process.pid)


HANGS = """
import sys, time
from semiseg.errors import ProcessLost
from semiseg.training.distributed import watch

watch.LOOK_S = watch.GRACE_S = 0.05
with watch.Watch(lambda: ProcessLost("rank 1 of 2 has ended", 2), []):
    time.sleep(60)
"""


def test_a_process_that_waits_in_vain_is_ended() -> None:
    """As it would on a GPU, where a collective does not break with its connection."""
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=50)
    assert (ended.returncode, ended.stderr) == (2, "semiseg: rank 1 of 2 has ended\n")


def test_the_cause_is_told_and_not_its_consequences() -> None:
    class Three(peers.Peers):
        def __init__(self, rank: int, gone: dict[int, int | None]) -> None:
            self.rank, self.world, self.go_on, self.parent = rank, 4, lambda: "again", None
            self.pids, self.found = dict.fromkeys(range(4), 1), gone

        def gone(self) -> dict[int, int | None]:
            return self.found

    assert Three(0, {}).lost() is None
    told = Three(0, {1: 0, 2: 1, 3: -signal.SIGSEGV}).lost()
    assert isinstance(told, ProcessLost) and str(told).startswith("rank 3 of 4 was ended by SIGSEGV, and the run")
    told = Three(0, {1: 0, 2: 2}).lost()
    assert isinstance(told, ProcessLost) and told.status == 2 and "rank 2 of 4 has ended with status 2" in str(told)
    assert isinstance(Three(1, {0: None}).lost(), ProcessLost)  # the first one that is left tells
    assert isinstance(Three(2, {0: None}).lost(), ReportedElsewhere)


# Batch statistics over all processes.


@pytest.mark.parametrize("name", METHODS)
def test_every_batchnorm_is_synchronized_under_its_old_name(name: str) -> None:
    encoder = "tf_efficientnet_lite0" if name == "dual-teacher" else "test_efficientnet"  # which has no branch to drop
    config = TrainConfig(method=name, encoder=encoder, weights="none")
    options, data = METHODS[name].Options(), Shapes(images=2, val=1, test=1, size=48)
    plain, method = (make_method(config, options, data) for _ in range(2))
    parameters = dict(method.named_parameters())
    kinds = {key for key, module in plain.named_modules() if isinstance(module, torch.nn.BatchNorm2d | BatchNormAct2d)}
    assert kinds and any(isinstance(module, BatchNormAct2d) for module in plain.modules())
    method = synchronize_batchnorm(method)
    synchronized = {key for key, module in method.named_modules() if isinstance(module, torch.nn.SyncBatchNorm)}
    assert synchronized == kinds
    assert plain.state_dict().keys() == method.state_dict().keys()
    plain.load_state_dict(method.state_dict())
    assert all(value is parameters[key] for key, value in method.named_parameters())  # a checkpoint's, the optimizer's
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(plain.eval().student(images), method.eval().student(images))


def test_a_batch_script_of_slurm_is_one_process_that_starts_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    for devices in (1, 2):
        fabric = make_fabric(TrainConfig(accelerator="cpu", devices=devices))
        assert fabric.world_size == devices
        assert isinstance(fabric._connector._cluster_environment_flag, LightningEnvironment)
    for name in ("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID"):  # which srun sets
        monkeypatch.setenv(name, "0")
    assert isinstance(
        make_fabric(TrainConfig(accelerator="cpu", devices=2)).strategy.cluster_environment, SLURMEnvironment
    )


def test_synchronized_batchnorm_is_refused_on_cpus_and_means_nothing_to_one_process() -> None:
    with pytest.raises(UserError, match="--batchnorm sync: PyTorch takes statistics over several processes on GPUs"):
        make_fabric(TrainConfig(batchnorm="sync", accelerator="cpu", devices=2))
    assert make_fabric(TrainConfig(batchnorm="sync", accelerator="cpu")).world_size == 1
