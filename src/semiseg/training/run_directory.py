"""The run directory: created atomically, self-contained, never overwritten."""

from __future__ import annotations

import errno
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from semiseg.config import TrainConfig, from_mapping, read_train_config, read_yaml, to_mapping
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.atomic_folder import is_free, new_folder
from semiseg.data.splits.dataset_split import Split, read_split, write_split
from semiseg.errors import UserError, is_utf8, require_regular_file
from semiseg.networks.encoder_weights import describe_weights
from semiseg.training.checkpoint import MAY_CHANGE, write_atomically
from semiseg.training.distributed.external_launcher import launch_id
from semiseg.training.find_method import find_method
from semiseg.training.run_data import open_run_data, recorded_paths, with_located_paths
from semiseg.version import __version__

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RESOLVED = ("bands", "white")  # options that a new run resolves from its data
LOCK = ".lock"
UNLOCKED = "warning: {}. Make sure that only one process at a time trains this run."


class RunDirectory:
    """The paths of a run, and its saved configuration and split."""

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
        cls,
        path: Path | str,
        config: TrainConfig,
        options: Any,
        dataset: SegmentationDataset,
        split: Split,
        plan: Mapping[str, Any] | None = None,
    ) -> RunDirectory:
        """Create the directory with configuration, environment, split and, if there is one, plan.

        The directory is written under a temporary name and renamed. After a crash it either does not exist or can be
        resumed.

        Raises:
            UserError: The directory exists and is not empty, or cannot be written.
        """
        path = Path(path)
        cls.refuse_existing(path)
        with new_folder(path, "checkpoints", "samples", "splits") as draft:
            values = recorded_paths(config) | to_mapping(config, options)
            (draft / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), "utf-8")
            encoder_weights = "" if config.init else describe_weights(config.encoder, config.weights)
            content = environment() | {"encoder_weights": encoder_weights}
            (draft / "environment.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            write_split(split, draft / "splits")
            if plan is not None:
                (draft / "plan.json").write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
        run = cls(path)
        run.dataset, run.split = dataset, split  # do not open them again: listing a million files takes seconds
        return run

    @staticmethod
    def refuse_existing(path: Path | str) -> None:
        """Raise UserError if ``path`` exists and is not empty, or is not a valid name for a run."""
        path = Path(path)
        if not path.name:
            raise UserError("a run needs its own directory", path=path, fix="choose another --out, e.g. runs/first")
        if not is_utf8(str(path)):
            raise UserError("the name of a run must be valid UTF-8", path=path, fix="choose another --out")
        if not is_free(path):
            raise UserError("exists", path=path, fix=f"choose another --out, or resume the run with --resume {path}")

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """Open an existing run.

        Raises:
            UserError: ``path`` is not a run directory.
        """
        run = cls(path)
        if not (run.path / "config.yaml").is_file():
            raise UserError(
                "not a run directory (no config.yaml)", path=path, fix="give a directory created by semiseg train"
            )
        return run

    @contextmanager
    def lock(self) -> Iterator[str]:
        """Lock the run against other processes; yield a warning if locks are not supported, otherwise "".

        POSIX locks belong to the process: data loading workers do not inherit the lock, and the kernel releases it
        when the process ends.

        Raises:
            UserError: Another process is training the run.
        """
        if fcntl is None:
            yield UNLOCKED.format("this system does not support file locks")
            return
        lock = self.path / LOCK
        try:
            require_regular_file(lock)
        except OSError as error:
            raise UserError(str(error), path=lock, fix="remove it") from None
        with open(lock, "a", encoding="utf-8") as file:
            note = ""
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.EACCES):
                    raise UserError(
                        "another process is training this run", path=self.path, fix="wait for it to finish"
                    ) from None
                note = UNLOCKED.format(f"this file system does not support locks ({error.strerror})")
            yield note

    def read_config(self) -> tuple[TrainConfig, Any]:
        """Return the run's configuration and the options of its method. Folders have absolute paths if known."""
        source = self.path / "config.yaml"
        values = with_located_paths(read_yaml(source))
        if "method" not in values:
            raise UserError("names no method", path=source, fix="restore the file")
        method = find_method(str(values["method"]), named_in=source)
        config, options = from_mapping((TrainConfig, method.Options), values, str(source))
        return config, options

    def belongs_to_this_launch(self, config: TrainConfig, options: Any) -> bool:
        """Return whether this torchrun launch created the run by the same command, before restarting its processes.

        torchrun's restart count is not enough: every machine counts only its own failures.
        """
        if launch_id() is None or not (self.path / "config.yaml").is_file():
            return False
        try:
            launch = json.loads((self.path / "environment.json").read_text(encoding="utf-8")).get("launch")
        except (OSError, ValueError, AttributeError):
            return False
        theirs, ours = to_mapping(*self.read_config()), to_mapping(config, options)
        return launch == launch_id() and all(
            theirs.get(key) == ours[key] for key in ours if key not in (*MAY_CHANGE, *RESOLVED)
        )

    @cached_property
    def dataset(self) -> SegmentationDataset:
        """The run's data set, opened on first use."""
        return open_run_data(self.read_config()[0], self.path, unlabeled=True)

    @cached_property
    def split(self) -> Split:
        """The run's lists of images, read on first use; raises UserError if an image is no longer in the data set."""
        return self.read_split(self.dataset)

    def read_split(self, dataset: SegmentationDataset, unlabeled: bool = True) -> Split:
        """Return the run's lists of images; raises UserError if an image is no longer in the data set.

        Args:
            dataset: The data.
            unlabeled: Read the unlabeled list as well, which may name photographs outside the data.
        """
        return read_split(self.path / "splits", dataset, unlabeled)

    def change(self, values: Mapping[str, Any]) -> None:
        """Write other values of options to config.yaml."""
        source = self.path / "config.yaml"
        before = read_yaml(source)
        for name in values:
            before.pop(f"{name}_path", None)
        changed = {**before, **values}
        changed = recorded_paths(read_train_config(with_located_paths(changed), str(source))) | changed
        write_atomically(source, yaml.safe_dump(changed, sort_keys=False, allow_unicode=True).encode())


def environment() -> dict[str, Any]:
    """Return the command, the versions of Python and packages, and the machine."""
    packages = ("torch", "torchvision", "lightning-fabric", "segmentation-models-pytorch", "timm", "numpy")
    return {
        "command": " ".join(["semiseg", *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {"semiseg": __version__} | {name: version(name) for name in packages},
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "launch": launch_id(),
    }
