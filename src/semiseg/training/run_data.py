"""Find the data of a run, which may have been moved since."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semiseg.config import TrainConfig
from semiseg.data import open_dataset, saved_format
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.unlabeled_folder import add_photographs, is_photograph_folder
from semiseg.errors import UserError

LOCATED = ("data", "unlabeled")
"""The options that name folders. A run records the absolute path of each under NAME_path."""
RECORDED = tuple(f"{name}_path" for name in LOCATED)


def recorded_paths(config: TrainConfig) -> dict[str, str]:
    """Return the absolute paths of the folders of a configuration, as ``data_path`` and ``unlabeled_path``."""
    values = {name: getattr(config, name) for name in LOCATED}
    return {f"{name}_path": os.path.abspath(path) for name, path in values.items() if path and os.path.isdir(path)}


def with_located_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run without recorded paths, with folders where they are now.

    A relative path is replaced by the recorded absolute one, unless only the relative one exists.
    """
    found = {name: value for name, value in values.items() if name not in RECORDED}
    for name in LOCATED:
        typed, recorded = values.get(name), values.get(f"{name}_path")
        if isinstance(typed, str) and isinstance(recorded, str) and not os.path.isabs(typed):
            found[name] = recorded if os.path.isdir(recorded) or not os.path.isdir(typed) else typed
    return found


def open_run_data(
    config: TrainConfig, source: str | Path, data: str | Path | None = None, unlabeled: bool = False
) -> SegmentationDataset:
    """Open the data of a run or checkpoint, with the pixel format that it has saved.

    Args:
        config: Its configuration.
        source: The run or checkpoint, for messages.
        data: The data, if they are elsewhere now.
        unlabeled: Include the photographs of ``--unlabeled FOLDER``.

    Raises:
        UserError: The data are missing or invalid.
    """
    path = str(data or config.data)
    if data is None and not path:
        raise UserError("names no data", path=source, fix="pass --data")
    if data is None and not is_generated(path) and not os.path.isdir(path):
        raise UserError(f"its data {path} is missing", path=source, fix="pass --data NEW if it moved")
    dataset = open_dataset(path)
    if unlabeled and config.unlabeled and os.path.isabs(config.unlabeled):
        if not os.path.exists(config.unlabeled):
            problem = f"its folder of unlabeled images {config.unlabeled} is missing"
            raise UserError(problem, path=source, fix="pass --unlabeled NEW if it moved")
        if is_photograph_folder(config.unlabeled):
            dataset = add_photographs(dataset, config.unlabeled)[0]
    dataset.pixel_format = saved_format(config)
    return dataset


def is_generated(data: str) -> bool:
    """Return whether ``--data`` names generated or downloaded data rather than a folder."""
    return data.partition(":")[0] in ("shapes", "hf") and not os.path.isdir(data)


def same_data(one: str, other: str) -> bool:
    """Return whether two values of ``--data`` name the same data set."""
    return one == other or (Path(one).is_dir() and Path(one).resolve() == Path(other).resolve())
