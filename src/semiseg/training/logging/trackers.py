"""Optional experiment trackers: TensorBoard, Weights & Biases, Trackio."""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image

from semiseg.config import TrainConfig, to_mapping
from semiseg.errors import UserError
from semiseg.training.checkpoint import write_atomically

PROJECT = "semiseg"


class Tracker(Protocol):
    """Receives the metrics and pictures of a run, on rank 0 only."""

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log one line of metrics.jsonl."""

    def show(self, step: int, pictures: Sequence[Path]) -> None:
        """Log the sample pictures of a validation."""

    def close(self) -> None:
        """Flush and close."""


def tracker_names(config: TrainConfig) -> list[str]:
    """Return the trackers of a run; the deprecated ``--tensorboard`` adds TensorBoard to ``--tracker``."""
    names = [config.tracker, *(["tensorboard"] if config.tensorboard else [])]
    return [name for name in dict.fromkeys(names) if name != "none"]


def require_trackers(config: TrainConfig) -> None:
    """Raise UserError if the package of a tracker is not installed."""
    for name in tracker_names(config):
        try:
            importlib.import_module(TRACKERS[name].module)
        except ImportError:
            fix = f"run pip install 'semiseg[{name}]', or leave the option out"
            raise UserError(f"{name} is not installed", option="tracker", fix=fix) from None


def open_trackers(config: TrainConfig, options: Any, folder: Path, resume_at: int) -> list[Tracker]:
    """Open the trackers of the run in ``folder``, which has taken ``resume_at`` steps.

    Raises:
        UserError: A package is not installed, or a tracker cannot start, e.g. because the login failed.
    """
    require_trackers(config)
    settings = to_mapping(config, options)
    return [TRACKERS[name].open(folder, settings, resume_at) for name in tracker_names(config)]


def numbers(values: dict[str, Any]) -> dict[str, float]:
    """Return all numbers of a metrics line by name; those of a validation have the prefix ``val/NETWORK/``."""
    prefix = f"{values['split']}/{values['network']}/" if "split" in values else ""
    flat = values | {f"iou/{name}": iou for name, iou in values.get("iou", {}).items()}
    return {prefix + name: value for name, value in flat.items() if isinstance(value, (int, float))}


class TensorBoard:
    """Writes TensorBoard files to ``tensorboard/`` in the run directory."""

    def __init__(self, folder: Path, settings: dict[str, Any], resume_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Steps after the checkpoint are trained and written again.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_at + 1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Write the numbers of one line."""
        for name, value in numbers(values).items():
            self.writer.add_scalar(name, value, step)

    def show(self, step: int, pictures: Sequence[Path]) -> None:
        """Write the pictures."""
        for name, file in named(pictures):
            with Image.open(file) as picture:
                self.writer.add_image(name, np.array(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close."""
        self.writer.close()


class Experiment:
    """Logs to Weights & Biases or Trackio, whose ``init``, ``log``, ``Image`` and ``finish`` are compatible.

    A resumed run continues the same experiment, identified by the id in the run directory. Steps after the checkpoint
    are computed and logged again with the same values; Weights & Biases keeps the first ones.
    """

    def __init__(self, kind: str, folder: Path, settings: dict[str, Any], resume_at: int = 0) -> None:
        self.module = importlib.import_module(TRACKERS[kind].module)
        id = experiment_id(folder)
        own = {"id": id, "dir": str(folder), "reinit": "finish_previous"} if kind == "wandb" else {"embed": False}
        project = os.environ.get(f"{kind.upper()}_PROJECT", PROJECT)
        name = f"{folder.resolve().name}-{id}"  # Trackio identifies runs by name
        try:
            self.module.init(project=project, name=name, config=settings, resume="allow", **own)
        except Exception as error:  # each library raises its own types
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            fix = "run `wandb login`, or set WANDB_MODE=offline" if kind == "wandb" else f"check the settings of {kind}"
            raise UserError(f"{kind} cannot start ({reason})", option="tracker", fix=fix) from error

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Log the numbers of one line."""
        logged = {name: value for name, value in numbers(values).items() if not name.endswith(("/step", "/time_s"))}
        logged.pop("step", None)  # an argument of its own
        self.module.log(logged, step=step)

    def show(self, step: int, pictures: Sequence[Path]) -> None:
        """Log the pictures."""
        if pictures:
            self.module.log({name: self.module.Image(str(file)) for name, file in named(pictures)}, step=step)

    def close(self) -> None:
        """Send remaining data and finish the experiment."""
        self.module.finish()


class TrackerKind(NamedTuple):
    """How to open one kind of tracker.

    Attributes:
        module: The module it needs. The extra that installs it has the name of the tracker.
        open: Maps the run directory, the settings and the number of steps already taken to an open tracker.
    """

    module: str
    open: Callable[[Path, dict[str, Any], int], Tracker]


TRACKERS = {
    "tensorboard": TrackerKind("torch.utils.tensorboard", TensorBoard),
    "wandb": TrackerKind("wandb", partial(Experiment, "wandb")),
    "trackio": TrackerKind("trackio", partial(Experiment, "trackio")),
}
"""The trackers by name. A new one also needs its name in ``TrainConfig.tracker`` and an extra in pyproject.toml."""


def named(pictures: Iterable[Path]) -> list[tuple[str, Path]]:
    """Return ``samples/IMAGE`` and the path of each file ``STEP_IMAGE.png``."""
    return [(f"samples/{file.stem.partition('_')[2]}", file) for file in pictures]


def experiment_id(folder: Path) -> str:
    """Return the run's random id for trackers, created on first use and kept in ``tracker-id.txt``."""
    file = folder / "tracker-id.txt"
    if not file.is_file():
        write_atomically(file, secrets.token_hex(4).encode())
    return file.read_text(encoding="utf-8").strip()
