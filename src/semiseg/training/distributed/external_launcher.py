"""Ranks that torchrun, our own launcher or SLURM's srun started: how many there are, and what that requires."""

from __future__ import annotations

import os
import platform
from dataclasses import replace
from typing import NamedTuple

from semiseg.config import TrainConfig
from semiseg.errors import ReportedElsewhere, UserError


class ExternalLauncher(NamedTuple):
    """The program that started this process as one of several ranks."""

    name: str
    devices: int
    """Ranks on each node."""
    nodes: int
    rank: int
    """Global rank of this process."""


def under_torchelastic() -> bool:
    """Return whether torchrun or `launch` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def find_launcher() -> ExternalLauncher | None:
    """Return the program that started this process as one of several ranks, or None if it runs on its own.

    A SLURM batch script runs on its own; only what ``srun`` starts is a rank.
    """
    env = os.environ
    if under_torchelastic():
        devices = int(env["LOCAL_WORLD_SIZE"])
        return ExternalLauncher("torchrun", devices, int(env["WORLD_SIZE"]) // devices, int(env["RANK"]))
    if "SLURM_STEP_ID" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):  # same rule as Fabric's
        nodes = int(env.get("SLURM_NNODES", 1))
        return ExternalLauncher("srun", int(env["SLURM_NTASKS"]) // nodes, nodes, int(env["SLURM_PROCID"]))
    return None


def adopt_launcher(config: TrainConfig) -> TrainConfig:
    """Return ``config`` with the devices and nodes that the launcher has started, if there is one.

    Raises:
        UserError: ``config`` asks for other numbers. ReportedElsewhere on ranks other than 0.
    """
    launcher = find_launcher()
    if not launcher:
        return config
    started = (launcher.devices, launcher.nodes)
    if (config.devices, config.nodes) not in (started, ("auto", launcher.nodes), ("auto", 1)):
        problem = f"{launcher.name} has started {launcher.devices} processes on each of {launcher.nodes} machines"
        option = f"--devices {config.devices} --nodes {config.nodes}"
        raise _on_rank_zero(UserError(problem, option=option, fix="leave both options out, or give the same numbers"))
    return replace(config, devices=launcher.devices, nodes=launcher.nodes)


def check_world_size(config: TrainConfig) -> TrainConfig:
    """Return ``config`` as ``adopt_launcher`` does, after checking that the batch divides among the ranks.

    Raises:
        UserError: As ``adopt_launcher``, or the batch size is not a multiple of the number of ranks.
    """
    config = adopt_launcher(config)
    if problem := batch_problem(config, world_size(config)):
        raise _on_rank_zero(problem)
    return config


def world_size(config: TrainConfig) -> int:
    """Return the number of ranks that ``config`` asks for."""
    return (1 if config.devices == "auto" else config.devices) * config.nodes


def batch_problem(config: TrainConfig, ranks: int) -> UserError | None:
    """Return the error if the batch does not divide into ``ranks * config.accumulate`` micro-batches, else None."""
    if config.batch_size == "auto" or config.batch_size % (ranks * config.accumulate) == 0:
        return None
    parts = f" with --accumulate {config.accumulate}" if config.accumulate > 1 else ""
    problem = f"{config.batch_size} does not divide by {ranks} processes{parts}"
    return UserError(problem, option="--batch-size", fix=f"use a multiple of {ranks * config.accumulate}")


def _on_rank_zero(error: UserError) -> UserError:
    """Return ``error`` on rank 0 and ReportedElsewhere on the others, before the ranks can communicate."""
    launcher = find_launcher()
    return ReportedElsewhere(str(error)) if launcher and launcher.rank else error


def launch_id() -> str | None:
    """Return an identifier of this torchrun, which stays the same when it restarts the ranks; None without torchrun.

    It is the rendezvous id. Several machines without ``--rdzv-id`` have none; then it is the agent on the machine of
    rank 0.
    """
    if not under_torchelastic():
        return None
    rendezvous = os.environ["TORCHELASTIC_RUN_ID"]
    return rendezvous if rendezvous != "none" else f"{platform.node()}:{os.getppid()}"


def restarts_left() -> bool:
    """Return whether torchrun will start the ranks again after one of them has failed."""
    env = os.environ
    return int(env.get("TORCHELASTIC_RESTART_COUNT", 0)) < int(env.get("TORCHELASTIC_MAX_RESTARTS", 0))
