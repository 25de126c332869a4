"""Trackers beside metrics.jsonl, each an extra: TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from semiseg.config import TrainConfig, to_mapping
from semiseg.errors import UserError
from semiseg.training.checkpoint import write_atomically

MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
PROJECT = "semiseg"


class Tracker(Protocol):
    """What the training loop tells, on the first process only."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Take one line of metrics.jsonl."""

    def show(self, step: int, pictures: Sequence[Path]) -> None:
        """Take the sample pictures of a validation."""

    def close(self) -> None:
        """Send or write what is left."""


def tracker_names(config: TrainConfig) -> list[str]:
    """Return the trackers that a run asks for; ``--tensorboard`` is one of them, beside ``--tracker``."""
    asked = [config.tracker, *(["tensorboard"] if config.tensorboard else [])]
    return [name for name in dict.fromkeys(asked) if name != "none"]


def require_trackers(config: TrainConfig) -> None:
    """Raise UserError where the extra of a tracker that is asked for is not installed."""
    for name in tracker_names(config):
        try:
            importlib.import_module(MODULES[name])
        except ImportError:
            hint = f"pip install 'semiseg[{name}]'"
            raise UserError(f"--tracker {name} needs an extra: {hint}, or leave the option out") from None


def open_trackers(config: TrainConfig, options: Any, folder: Path, resume_at: int) -> list[Tracker]:
    """Open what a run asks for, in its directory ``folder``; ``resume_at`` steps have been taken.

    Raises:
        UserError: an extra that is not installed, or a service that does not let us in.
    """
    require_trackers(config)
    settings = to_mapping(config, options)
    return [
        TensorBoard(folder / "tensorboard", resume_at) if name == "tensorboard" else Experiment(name, folder, settings)
        for name in tracker_names(config)
    ]


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return every number of a metrics line under its own name; validation figures under ``val/NETWORK/``."""
    prefix = f"{values['split']}/{values['network']}/" if "split" in values else ""
    flat = values | {f"iou/{name}": iou for name, iou in values.get("iou", {}).items()}
    return {prefix + name: value for name, value in flat.items() if isinstance(value, (int, float))}


class TensorBoard:
    """Files in the run's ``tensorboard/``."""

    def __init__(self, folder: Path, resume_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What was written after the checkpoint that the run resumes from will be written again.
        self.writer = SummaryWriter(str(folder), purge_step=resume_at + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Write one line's numbers."""
        for name, value in numbers(values).items():
            self.writer.add_scalar(name, value, step)

    def show(self, step: int, pictures: Sequence[Path]) -> None:
        """Write the pictures."""
        for name, file in named(pictures):
            with Image.open(file) as picture:
                self.writer.add_image(name, np.array(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class Experiment:
    """Weights & Biases or Trackio: both have ``init``, ``log``, ``Image`` and ``finish``, and take the same of them.

    A resumed run goes on with the same experiment, which it finds by the id in its directory. Steps after the
    checkpoint that were told before are computed again, to the same values; Weights & Biases keeps the first.
    """

    def __init__(self, kind: str, folder: Path, settings: dict[str, Any]) -> None:
        self.module = importlib.import_module(MODULES[kind])
        id = experiment_id(folder)
        own = {"id": id, "dir": str(folder), "reinit": "finish_previous"} if kind == "wandb" else {"embed": False}
        project = os.environ.get(f"{kind.upper()}_PROJECT", PROJECT)
        name = f"{folder.resolve().name}-{id}"  # Trackio knows a run by its name alone
        try:
            self.module.init(project=project, name=name, config=settings, resume="allow", **own)
        except Exception as error:  # a library's own kinds: no account, no network, no space
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            remedy = "log in by `wandb login`, or set WANDB_MODE=offline" if kind == "wandb" else "see its settings"
            raise UserError(f"--tracker {kind}: it cannot begin ({reason}): {remedy}") from error

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log one line's numbers."""
        told = {name: value for name, value in numbers(values).items() if not name.endswith(("/step", "/time_s"))}
        told.pop("step", None)  # given apart
        self.module.log(told, step=step)

    def show(self, step: int, pictures: Sequence[Path]) -> None:
        """Log the pictures."""
        if pictures:
            self.module.log({name: self.module.Image(str(file)) for name, file in named(pictures)}, step=step)

    def close(self) -> None:
        """End the experiment; what it has not sent, it sends now."""
        self.module.finish()


def named(pictures: Iterable[Path]) -> list[tuple[str, Path]]:
    """Return ``samples/IMAGE`` and the file, for files named ``STEP_IMAGE.png``."""
    return [(f"samples/{file.stem.partition('_')[2]}", file) for file in pictures]


def experiment_id(folder: Path) -> str:
    """Return the run's id for trackers, made up on first use and kept in ``tracker-id.txt``."""
    file = folder / "tracker-id.txt"
    if not file.is_file():
        write_atomically(file, secrets.token_hex(4).encode())
    return file.read_text(encoding="utf-8").strip()
