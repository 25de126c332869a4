"""The device of a plan: its kind, cores and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

HUB_GPU_GB = 16  # smaller GPUs do not train the encoders of the hub, so the hub is not contacted
HUB_ENCODER = "vit_small_patch14_dinov2"


@dataclass(frozen=True)
class Device:
    """A machine, as far as a plan depends on it.

    Attributes:
        kind: cpu, cuda or mps.
        cores: CPU cores that the run may use.
        memory_gb: Main memory; 0 if unknown.
        name: Name of the GPU.
        gpu_gb: Memory of the GPU; 0 without one.
        count: Number of devices that train together.
        hub: Whether the model hub can be reached. Known only for GPUs that can train its encoders.
    """

    kind: str = "cpu"
    cores: int = 1
    memory_gb: float = 0.0
    name: str = ""
    gpu_gb: float = 0.0
    count: int = 1
    hub: bool = False

    def describe(self) -> str:
        """Return the device in words."""
        memory = f", {self.memory_gb:.0f} GB" if self.memory_gb else ""
        cpu = f"{self.cores} core{'s' * (self.cores != 1)}{memory}"
        if self.kind == "cpu":
            return f"CPU, {cpu}"
        count = f"{self.count} x " if self.count > 1 else ""
        return f"{count}{self.name or self.kind} with {self.gpu_gb:.0f} GB, {cpu}"


def find_device(accelerator: str = "auto", count: int = 1, jobs: int = 1) -> Device:
    """Return the device of this machine.

    Args:
        accelerator: As ``--accelerator``.
        count: Number of devices that train together.
        jobs: Number of runs at a time, which share the cores.

    Raises:
        UserError: This machine lacks the accelerator.
    """
    import torch

    from semiseg.inference.predictor import find_accelerator
    from semiseg.networks.encoder_weights import weights_available

    kind, memory_gb = find_accelerator(accelerator), _memory_gb()
    cores = max(1, min(torch.get_num_threads(), _cores()) // jobs) if kind == "cpu" else _cores()
    name, gpu_gb = "", 0.0
    if kind == "cuda":
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        name, gpu_gb = properties.name, properties.total_memory / 2**30
    elif kind == "mps":
        name, gpu_gb = "Apple GPU", memory_gb / 2  # shared with the CPU
    hub = kind == "cuda" and gpu_gb >= HUB_GPU_GB and weights_available(HUB_ENCODER)
    return Device(kind, cores, memory_gb, name, gpu_gb, count, hub)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):  # Windows
        return 0.0
