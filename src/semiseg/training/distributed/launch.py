"""Where a run's processes come from: torchrun or SLURM has started them and says how many; otherwise Fabric does."""

from __future__ import annotations

import os
import platform
from dataclasses import replace

from semiseg.config import TrainConfig
from semiseg.errors import ReportedElsewhere, UserError


def by_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def started_by() -> tuple[str, int, int, int] | None:
    """Return who has started the processes, how many on each of how many machines, and the rank of this one.

    None where nobody has: then Fabric does. Of SLURM only what ``srun`` starts counts, not a batch script itself.
    """
    there = os.environ
    if by_torchrun():
        each = int(there["LOCAL_WORLD_SIZE"])
        return "torchrun", each, int(there["WORLD_SIZE"]) // each, int(there["RANK"])
    if "SLURM_STEP_ID" in there and there.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # as Fabric sees it
        nodes = int(there.get("SLURM_NNODES", 1))
        return "srun", int(there["SLURM_NTASKS"]) // nodes, nodes, int(there["SLURM_PROCID"])
    return None


def located(config: TrainConfig) -> TrainConfig:
    """Return the configuration with the devices and nodes that torchrun or SLURM has started processes for, if it has.

    Raises:
        UserError: it asks for others; on one process, which tells.
    """
    started = started_by()
    if not started:
        return config
    who, devices, nodes, _ = started
    asked = config.devices, config.nodes
    if asked not in ((devices, nodes), ("auto", nodes), ("auto", 1)):
        message = f"--devices {asked[0]} --nodes {asked[1]}: {who} has started {devices} processes on each of {nodes}"
        raise _told_once(f"{message} machines: give the same numbers, or neither")
    return replace(config, devices=devices, nodes=nodes)


def placed(config: TrainConfig) -> TrainConfig:
    """Return the configuration of a run, ``located``.

    Raises:
        UserError: as ``located``, or a batch does not divide among so many; on one process, which tells.
    """
    config = located(config)
    if problem := undivided(config, (1 if config.devices == "auto" else config.devices) * config.nodes):
        raise _told_once(problem)
    return config


def undivided(config: TrainConfig, processes: int) -> str:
    """Return what to say where the batch does not divide among so many processes and their parts, or ""."""
    if config.batch_size == "auto" or config.batch_size % (processes * config.accumulate) == 0:
        return ""
    parts = f", each in {config.accumulate} parts" if config.accumulate > 1 else ""
    return f"--batch-size {config.batch_size} does not divide by {processes} processes{parts}: take a multiple"


def _told_once(problem: str) -> UserError | ReportedElsewhere:
    """Return the error to raise before processes have met: the first one tells."""
    started = started_by()
    return ReportedElsewhere(problem) if started and started[-1] else UserError(problem)


def launch_id() -> str | None:
    """Return what tells one torchrun from another; the same after it has started its processes anew.

    That is the id of its rendezvous. Several machines without ``--rdzv-id`` have none of their own: there it is the
    first machine's agent.
    """
    if not by_torchrun():
        return None
    given = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return given if given != "none" else f"{platform.node()}:{os.getppid()}"


def restarts() -> tuple[int, int]:
    """Return how often torchrun has started these processes anew, and how often it may."""
    count, most = (int(os.environ.get(f"TORCHELASTIC_{name}", 0)) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    return (count, most) if by_torchrun() else (0, 0)
