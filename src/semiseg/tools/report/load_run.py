"""Load a run's network for the pictures of a report."""

from __future__ import annotations

from pathlib import Path

from semiseg.tools.models.trained_model import load
from semiseg.training.run_data import open_run_data
from semiseg.training.run_directory import RunDirectory
from semiseg.visualization.run_pictures import LoadedRun


def load_run(path: Path, data: str | Path | None = None) -> LoadedRun:
    """Load a run's default network from its best checkpoint, with its data and its test list (or else val list).

    Args:
        path: The run.
        data: Its data, if they are elsewhere now.

    Raises:
        UserError: The run, its checkpoint or its data cannot be read.
    """
    model = load(path)
    dataset = open_run_data(model.config, path, data)
    split = RunDirectory(path).read_split(dataset, unlabeled=False)
    return LoadedRun(
        predict=lambda image: model(image).mask.cpu(),
        dataset=dataset,
        ids=split.test or split.val,
        classes=model.classes,
        palette=model.palette,
    )
