"""The run directory: made in one piece, explains itself, never overwritten."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from semiseg import __version__
from semiseg.config import TrainConfig, from_mapping, read_yaml, to_mapping
from semiseg.data import open_dataset
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.atomic_folder import is_free, new_folder
from semiseg.data.splits.dataset_split import Split, read_split, write_split
from semiseg.errors import UserError, is_utf8, require_regular_file
from semiseg.training.checkpoint import MOVABLE
from semiseg.training.distributed.external_launcher import launch_id
from semiseg.training.find_method import find_method

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
UNLOCKED = "warning: {}: see to it that only one process at a time trains this run"


class RunDirectory:
    """Paths of a run, and its configuration and split as they were when it began."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.metrics = self.path / "metrics.jsonl"
        self.log = self.path / "log.txt"
        self.last = self.path / "checkpoints" / "last.pt"
        self.best = self.path / "checkpoints" / "best.pt"
        self.confusion = self.path / "confusion.json"
        self.resources = self.path / "resources.json"
        self.samples = self.path / "samples"

    @classmethod
    def create(
        cls, path: Path | str, config: TrainConfig, options: Any, dataset: SegmentationDataset, split: Split
    ) -> RunDirectory:
        """Write configuration, environment and split to a new directory.

        It is filled beside its place and renamed into it: after a crash there is no run, or one that can be resumed.

        Raises:
            UserError: the directory exists and is not empty, or cannot be written.
        """
        path = Path(path)
        cls.refuse_existing(path)
        with new_folder(path, "checkpoints", "samples", "splits") as draft:
            values = to_mapping(config, options)
            (draft / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")
            (draft / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")
            write_split(split, draft / "splits")
        run = cls(path)
        run.dataset, run.split = dataset, split  # opened once: a million files take seconds to list
        return run

    @staticmethod
    def refuse_existing(path: Path | str) -> None:
        """Raise UserError where ``path`` holds anything, or no run can have its name."""
        path = Path(path)
        if not path.name:
            raise UserError(f"{path}: a run needs a directory of its own: choose another --out, e.g. runs/first")
        if not is_utf8(str(path)):
            raise UserError(f"{path}: a run cannot have this name, its bytes are no UTF-8: choose another --out")
        if not is_free(path):
            raise UserError(f"{path} exists: choose another --out, or go on with it by --resume {path}")

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """Open an existing run.

        Raises:
            UserError: there is none at ``path``.
        """
        run = cls(path)
        if not (run.path / "config.yaml").is_file():
            raise UserError(f"{path}: not a run (it has no config.yaml): give a directory made by semiseg train")
        return run

    @contextmanager
    def held(self) -> Iterator[str]:
        """Hold the run for one process at a time, and give a line to show where that is not to be had, or "".

        The lock is the process's own (POSIX), not that of an open file: its loader processes do not inherit it, and
        the kernel lets go of it when the process ends, however it ends.

        Raises:
            UserError: another process is at work in the run.
        """
        if fcntl is None:
            yield UNLOCKED.format("this system has no such locks")
            return
        lock = self.path / LOCK
        try:
            require_regular_file(lock)
        except OSError as error:
            raise UserError(f"{lock}: {error}: remove it") from None
        with open(lock, "a", encoding="utf-8") as file:
            note = ""
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise UserError(f"{self.path}: another process is training this run: wait for it") from None
                note = UNLOCKED.format(f"this file system has no such locks ({error.strerror})")
            yield note

    def read_config(self) -> tuple[TrainConfig, Any]:
        """Return the run's configuration and its method's options."""
        source = self.path / "config.yaml"
        values = read_yaml(source)
        method = find_method(str(values.get("method")), named_in=source)
        config, options = from_mapping((TrainConfig, method.Options), values, str(source))
        return config, options

    def is_of_this_launch(self, config: TrainConfig, options: Any) -> bool:
        """Whether the same torchrun made the run by the same command, before it started its processes anew.

        Its count of restarts does not tell: on each machine it counts what has ended there.
        """
        if launch_id() is None or not (self.path / "config.yaml").is_file():
            return False
        try:
            begun = json.loads((self.path / "environment.json").read_text(encoding="utf-8")).get("launch")
        except (OSError, ValueError, AttributeError):
            return False
        theirs, ours = to_mapping(*self.read_config()), to_mapping(config, options)
        return begun == launch_id() and all(theirs.get(key) == ours[key] for key in ours if key not in MOVABLE)

    @cached_property
    def dataset(self) -> SegmentationDataset:
        """The run's data, opened once."""
        return open_dataset(self.read_config()[0].data)

    @cached_property
    def split(self) -> Split:
        """The run's lists of images, read once; raises UserError where one of them is no longer in the data."""
        return self.read_split(self.dataset)

    def read_split(self, dataset: SegmentationDataset) -> Split:
        """Return the run's lists of images; raises UserError where one of them is no longer in the data."""
        return read_split(self.path / "splits", dataset)


def environment() -> dict[str, Any]:
    """What the run runs on: command, Python, packages, machine."""
    packages = ("torch", "torchvision", "lightning-fabric", "segmentation-models-pytorch", "timm", "numpy")
    return {
        "command": " ".join(["semiseg", *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {"semiseg": __version__} | {name: version(name) for name in packages},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "launch": launch_id(),
    }
