"""Lightning Fabric as a run's configuration asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException

from semiseg.config import TrainConfig
from semiseg.errors import UserError
from semiseg.inference.predictor import find_accelerator
from semiseg.training.distributed.launch import started_by
from semiseg.training.distributed.process_group import watched_launch
from semiseg.training.distributed.strategy import Strategy


def make_fabric(config: TrainConfig) -> Fabric:
    """Return Fabric for the configured accelerator, devices, nodes and precision.

    Raises:
        UserError: an accelerator that this machine does not have, or what it cannot do.
    """
    accelerator = find_accelerator(config.accelerator)
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    devices = 1 if config.devices == "auto" else config.devices
    several = devices > 1 or config.nodes > 1
    if config.batchnorm == "sync" and several and accelerator != "cuda":
        raise UserError(
            f"--batchnorm sync: PyTorch takes statistics over several processes on GPUs alone, not on {accelerator}: "
            "take train or frozen-encoder"
        )
    strategy: Any = Strategy() if several else "auto"
    # Fabric takes a batch script's variables of SLURM for those of srun, and waits for processes that nobody starts.
    ours = [LightningEnvironment()] if started_by() is None and SLURMEnvironment.detect() else None
    precision: Any = "bf16-mixed" if bf16 else "32-true"
    try:
        return Fabric(
            accelerator=accelerator,
            strategy=strategy,
            devices=devices,
            num_nodes=config.nodes,
            precision=precision,
            plugins=ours,
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise UserError(f"--devices {devices}: {' '.join(str(error).split())[:200]}") from None


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside the block, if ``wanted``, PyTorch takes algorithms alone that give the same each time.

    An operation that has none on the device raises RuntimeError and says so.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA's first matrix product is made
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


@contextmanager
def launched(config: TrainConfig) -> Iterator[Fabric]:
    """Start a run's processes; at the end of the block, whatever ended it, they take leave of one another.

    Gloo's threads must not outlive the interpreter: a process that ends with its group intact may end by SIGABRT.

    Raises:
        UserError: as `make_fabric`.
    """
    fabric = make_fabric(config)
    watched_launch(fabric)
    try:
        with deterministic(config.deterministic):
            yield fabric
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
