"""Start the ranks of ``--devices N`` through torchrun's elastic agent, and report their outcome once."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from semiseg.errors import Interrupted, ProcessLost, ReportedElsewhere, TrainingStopped, UserError
from semiseg.training.signals import handle_signals

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX, LOCK = "semiseg-launch-", "lock"  # the directory of a launch, and a file that the launcher locks
# Time for the ranks to finish the step, a validation and the save after a signal. Then the agent kills them.
SHUTDOWN_TIMEOUT_S = 600


def launch(
    function: Callable[..., Any], arguments: tuple[Any, ...], devices: int, nodes: int, resume_hint: Callable[[], str]
) -> Any:
    """Call ``function(*arguments)`` on ``devices`` ranks of this machine and return the result of the first one.

    The ranks run in sessions of their own. Signals reach only this process, and its agent passes them on. If a rank
    dies, the agent stops the others.

    Args:
        function: Importable by its module and name.
        arguments: Can be pickled.
        devices: Ranks on this machine.
        nodes: Machines. With several, the command runs on each, and ``MASTER_ADDR`` and ``MASTER_PORT`` name one.
        resume_hint: Returns a sentence that says how to continue.

    Raises:
        UserError, TrainingStopped, Interrupted: As raised on a rank.
        ProcessLost: A rank was killed, or has failed and printed why.
    """
    if "LOGLEVEL" not in os.environ:  # our errors say what the agent logs
        for name in ("torch.distributed.elastic", "torch.distributed.launcher"):
            logging.getLogger(name).addHandler(logging.NullHandler())
            logging.getLogger(name).propagate = False
    with launch_directory() as directory:
        (Path(directory) / "call.pkl").write_bytes(pickle.dumps((sys.argv, function, arguments)))
        failures: Mapping[int, ProcessFailure] = {}
        received = None
        # Keep the current directory off the ranks' import path, unless it is on ours.
        safe_path = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
        try:
            with handle_signals(raise_signal):
                agent = elastic_launch(agent_config(devices, nodes, directory), sys.executable)
                agent(*safe_path, "-m", "semiseg.training.distributed.rank", directory)
        except ChildFailedError as error:
            failures = error.failures
        except SignalException as error:
            received = error.sigval
        except KeyboardInterrupt:  # one more Ctrl-C while the agent stops
            received = signal.SIGINT
        outcomes = read_outcomes(Path(directory))
    first = next(iter(outcomes.values()), None)
    if outcomes and not failures and not isinstance(first, BaseException):
        return first
    raise find_cause(outcomes, failures, received, devices * nodes, resume_hint)


@contextmanager
def launch_directory() -> Iterator[str]:
    """Create the directory of a launch and lock it; remove those whose launcher was killed.

    Another container may share the directory for temporary files, so locks and not process ids show which ones live.
    """
    if fcntl is not None:
        for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
            with suppress(OSError), open(lock, "a", encoding="utf-8") as file:  # OSError: locked, or another user's
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as directory,
        open(Path(directory) / "new", "w", encoding="utf-8") as file,
    ):
        if fcntl is not None:
            fcntl.lockf(file, fcntl.LOCK_EX)
            os.rename(file.name, Path(directory) / LOCK)  # only after it is locked
        yield directory


def agent_config(devices: int, nodes: int, directory: str) -> LaunchConfig:
    """Return the agent's configuration: c10d rendezvous, no restarts, the output of the ranks left as it is."""
    settings: dict[str, Any] = {"rdzv_endpoint": "127.0.0.1:0", "local_addr": "127.0.0.1", "run_id": uuid.uuid4().hex}
    if nodes > 1:
        address, port = (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
        if not address or not port:
            problem = f"{nodes} machines need MASTER_ADDR and MASTER_PORT"
            raise UserError(problem, option="--nodes", fix="set both variables, or start semiseg by torchrun")
        settings = {"rdzv_endpoint": f"{address}:{port}", "run_id": "semiseg"}
        if "NODE_RANK" in os.environ:
            settings["rdzv_configs"] = {"is_host": os.environ["NODE_RANK"] == "0"}
    known = {field.name for field in fields(LaunchConfig)}
    if "signals_to_handle" in known:  # PyTorch 2.9 lacks both settings: its own handlers apply, and it waits 30 s
        settings["signals_to_handle"] = "SIGQUIT"  # raise_signal handles the others
    if "shutdown_timeout" in known:
        settings["shutdown_timeout"] = int(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN_TIMEOUT_S))
    return LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=devices,
        rdzv_backend="c10d",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=directory),
        **settings,
    )


def raise_signal(number: int, frame: FrameType | None) -> NoReturn:
    """Raise SignalException, as the agent's own handlers do: it passes the signal on and waits for the ranks.

    On a second signal, the agent sends SIGTERM, which `SignalHandler` takes for a second Ctrl-C if the first was one.
    """
    raise SignalException(f"received signal {number}", signal.Signals(number))


def read_outcomes(directory: Path) -> dict[int, Any]:
    """Return what the ranks have written by global rank, in order: a result or an exception each."""
    files = {int(file.stem.partition("-")[2]): file for file in directory.glob("outcome-*.pkl")}
    return {rank: pickle.loads(files[rank].read_bytes()) for rank in sorted(files)}


def find_cause(
    outcomes: Mapping[int, Any],
    failures: Mapping[int, ProcessFailure],
    received: signal.Signals | None,
    ranks: int,
    resume_hint: Callable[[], str],
) -> BaseException:
    """Return the error that stopped the ranks, rather than one that followed from it on another rank.

    Args:
        outcomes: As ``read_outcomes`` returns.
        failures: The ranks that exited with a status other than 0, by global rank.
        received: The signal that this process has received.
        ranks: The world size.
        resume_hint: Returns a sentence that says how to continue.
    """
    errors = [error for error in outcomes.values() if isinstance(error, BaseException)]
    for error in errors:
        if isinstance(error, UserError | TrainingStopped) and not isinstance(error, ReportedElsewhere):
            return error
    unreported = {r: f for r, f in failures.items() if r not in outcomes and f.exitcode != -signal.SIGTERM}
    if unreported:
        # The agent kills the other ranks later. Of several at once, a signal is the cause and an exit its consequence.
        rank, failure = min(unreported.items(), key=lambda item: (item[1].timestamp, item[1].exitcode > 0, item[0]))
        return ProcessLost(f"rank {rank} of {ranks} {describe_exit(failure.exitcode)}. {resume_hint()}")
    for kind in (Interrupted, ProcessLost):
        if errors_of_kind := [error for error in errors if isinstance(error, kind)]:
            return errors_of_kind[0]
    if received is not None or failures:  # failures: of SIGTERM, before a rank could handle it
        stopped_by = received or signal.SIGTERM
        return Interrupted(f"interrupted by {stopped_by.name}. {resume_hint()}", 128 + stopped_by)
    return ReportedElsewhere("another machine")


def describe_exit(status: int) -> str:
    """Return in words how a process ended: its exit status, or a signal as a negative number."""
    if status >= 0:
        return f"exited with status {status}, see above"
    name = signal.Signals(-status).name
    return f"was killed by {name}{' (often: out of memory)' if name == 'SIGKILL' else ''}"
