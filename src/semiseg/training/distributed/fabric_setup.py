"""Lightning Fabric as the configuration asks for it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from semiseg.config import TrainConfig
from semiseg.errors import UserError
from semiseg.inference.predictor import find_accelerator
from semiseg.training.distributed.external_launcher import find_launcher, world_size
from semiseg.training.distributed.single_process import SingleProcess

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def make_fabric(config: TrainConfig) -> Fabric:
    """Return Fabric for the configured accelerator, devices, nodes and precision.

    One process on a CPU in fp32 gets a `SingleProcess` instead.

    Raises:
        UserError: This machine lacks the accelerator or the devices, or the accelerator lacks a feature.
    """
    accelerator = find_accelerator(config.accelerator)
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and accelerator == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    devices = 1 if config.devices == "auto" else config.devices
    several = world_size(config) > 1
    if config.batchnorm == "sync" and several and accelerator != "cuda":
        problem = f"sync works on GPUs only: PyTorch cannot synchronize batch statistics on {accelerator}"
        raise UserError(problem, option="--batchnorm", fix="use train or frozen-encoder")
    if accelerator == "cpu" and not (bf16 or several or find_launcher()):
        return SingleProcess()
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments import LightningEnvironment
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from semiseg.training.distributed.strategy import Strategy

    strategy: Any = Strategy() if several else "auto"
    precision: Any = "bf16-mixed" if bf16 else "32-true"
    try:
        return Fabric(
            accelerator=accelerator,
            strategy=strategy,
            devices=devices,
            num_nodes=config.nodes,
            precision=precision,
            # In a SLURM batch script, Fabric would wait for ranks that only srun starts.
            plugins=None if find_launcher() else [LightningEnvironment()],
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        raise UserError(" ".join(str(error).split())[:200], option=f"--devices {devices}") from None


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Use only deterministic algorithms of PyTorch inside the block, if ``enabled``.

    An operation that has none on the device raises RuntimeError.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it before its first matrix product
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def keep_freed_memory() -> None:
    """Let glibc reuse the memory of freed tensors; without glibc, do nothing.

    By default it returns large blocks to the system at once. The system then fills the next ones with zeros, page by
    page, which takes 5 to 10 % of a step on a CPU.
    """
    set_malloc_thresholds(mmap=1 << 30, trim=(1 << 31) - 1)


def set_malloc_thresholds(mmap: int, trim: int) -> None:
    """Set the bytes from which glibc maps a block of its own, and returns free memory; without glibc, do nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, mmap)
    mallopt(_M_TRIM_THRESHOLD, trim)


@contextmanager
def launched(config: TrainConfig) -> Iterator[Fabric]:
    """Give Fabric, launched; destroy the process group at the end of the block.

    Gloo's threads must not outlive the interpreter, or the process may end with SIGABRT.

    Raises:
        UserError: As `make_fabric`.
    """
    fabric = make_fabric(config)
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    try:
        with deterministic(config.deterministic):
            yield fabric
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
