"""What a run costs: parameters that learn, time, memory; kept in the run's resources.json."""

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
    """Write what the run has cost so far; of the peaks of several sittings the highest is kept.

    Args:
        path: ``resources.json``: ``trainable_parameters``, of all networks that learn; ``training_s``; ``device``;
            and ``peak_memory_mb``, in MiB: on CUDA what PyTorch allocated there, elsewhere the process's memory (its
            workers, and other processes of the run, aside), None where the system does not tell.
        method: the method, whose parameters that require a gradient count.
        device: where it trains.
        time_s: seconds of training and validation, over all sittings.
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
    status = Path("/proc/self/status")  # Linux: ru_maxrss begins there with the peak of the process that started us
    if status.is_file() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))):
        return int(found[1]) / 2**10
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
