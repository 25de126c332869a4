"""Estimate the memory that a prediction needs, and the memory that is available."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from semiseg.inference.predictor import Predictor

PROBE_SIDE = 256  # of the network's input, in pixels
UNKNOWN_MEMORY = 4 * 2**30  # where the system reports no figure
ALLOCATION_ERRORS = ("allocate", "out of memory", "create a primitive", "execute a primitive", "create a memory")


class PeakBytes(TorchDispatchMode):
    """Record the largest number of bytes that the tensors created in this context occupy at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation and add the tensors that it returns."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                reference = StorageWeakRef(storage)
                self._live[reference.cdata] = (reference, storage.nbytes())
        self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._live.values()))
        return result


def bytes_per_pixel(predictor: Predictor) -> float:
    """Measure the bytes of memory per pixel (see `Predictor.peak_pixels`) with a small image.

    The memory of a network is proportional to the number of pixels, such as 350 to 750 bytes for each.
    """
    side = max(1, round(PROBE_SIDE / predictor.image_scale))
    with predictor.ready_networks():
        pass  # the memory of their copies does not depend on the pixels
    with PeakBytes() as used:
        predictor(torch.zeros(predictor.channels, side, side, dtype=torch.uint8))
    return used.peak / predictor.peak_pixels(side, side)


def available_memory(device: torch.device) -> int:
    """Return the free memory of the device in bytes."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory()
    return int(min(_free_memory(), _container_memory(), _address_space()))


def is_allocation_error(error: BaseException) -> bool:
    """Return whether memory is exhausted. PyTorch raises RuntimeError on a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in ALLOCATION_ERRORS)


def _free_memory() -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    names: dict[str, int] = getattr(os, "sysconf_names", {})  # empty on Windows
    for name, divisor in (("SC_AVPHYS_PAGES", 1), ("SC_PHYS_PAGES", 2)):
        if name in names:
            return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") // divisor
    return UNKNOWN_MEMORY


def _container_memory() -> int | float:
    """Return what a container may still allocate, infinite without a limit."""
    for folder, limit, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # the file is missing, or reads "max"
            return int(Path(folder, limit).read_text()) - int(Path(folder, used).read_text())
    return float("inf")


def _address_space() -> int | float:
    """Return what ``ulimit -v`` leaves, infinite without a limit."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            return limit - int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    return float("inf")
