"""The page of one run, and the one that compares several."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from semiseg.api.model import load
from semiseg.config import read_yaml
from semiseg.data import open_dataset
from semiseg.report import LoadedRun, write_report
from semiseg.training.run_directory import RunDirectory


def report(runs: Iterable[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of one run, or the page and the picture that compare several; return the page's path."""
    paths = [RunDirectory.open(run).path for run in runs]
    return write_report(paths, Path(out) if out else None, load_run=loaded_run)


def loaded_run(path: Path) -> LoadedRun:
    """Open a run for the report: its default network at its best checkpoint, its data and its lists."""
    model = load(path)
    dataset = open_dataset(model.config.data)
    split = RunDirectory(path).read_split(dataset)
    return LoadedRun(
        name=model.config.method,
        predict=lambda image: model(image).mask.cpu(),
        dataset=dataset,
        ids=split.test or split.val,
        classes=model.classes,
        palette=model.palette,
        config=read_yaml(path / "config.yaml"),
    )
