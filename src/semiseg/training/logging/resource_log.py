"""resources.json: trainable parameters, time and peak memory of a run."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from semiseg.training.checkpoint import write_atomically


def write_resources(path: Path, method: nn.Module, device: torch.device, time_s: float) -> None:
    """Write the resources used so far; a resumed run keeps the highest peak.

    The file has ``trainable_parameters`` (of all networks), ``training_s``, ``device`` and ``peak_memory_mb`` in MiB:
    on CUDA the memory allocated by PyTorch, otherwise the resident memory of this process without data loading workers
    and other ranks, or None if the system does not report it.

    Args:
        path: ``resources.json``.
        method: The method with its networks.
        device: The device it trains on.
        time_s: Seconds of training and validation, including those before a resume.
    """
    peaks = [peak for peak in (_previous(path).get("peak_memory_mb"), _peak_memory_mb(device)) if peak is not None]
    content = {
        "trainable_parameters": sum(p.numel() for p in method.parameters() if p.requires_grad),
        "training_s": round(time_s, 3),
        "peak_memory_mb": round(max(peaks), 1) if peaks else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    write_atomically(path, (json.dumps(content) + "\n").encode())


def _previous(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _peak_memory_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")  # on Linux, ru_maxrss includes the peak of the parent process
    if status.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))):
        return int(found[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
