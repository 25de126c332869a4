"""Trackers beside metrics.jsonl: TensorBoard, an extra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semiseg.errors import UserError


def require_tensorboard() -> None:
    """Raise UserError where the extra is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        hint = "pip install 'semiseg[tensorboard]'"
        raise UserError(f"--tensorboard needs an extra: {hint}, or leave the option out") from None


class TensorBoard:
    """Writes every number of a metrics line under its own name; validation figures under ``val/NETWORK/``."""

    def __init__(self, folder: Path, resume_at: int) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        # What was written after the checkpoint that the run resumes from will be written again.
        self.writer = SummaryWriter(str(folder), purge_step=resume_at + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Write one line's numbers."""
        prefix = f"{values['split']}/{values['network']}/" if "split" in values else ""
        numbers = values | {f"iou/{name}": iou for name, iou in values.get("iou", {}).items()}
        for name, value in numbers.items():
            if isinstance(value, (int, float)):
                self.writer.add_scalar(prefix + name, value, step)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
