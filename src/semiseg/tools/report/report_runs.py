"""The page of one run, and the one that compares several."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from semiseg.config import read_yaml
from semiseg.data import open_dataset
from semiseg.tools.models.trained_model import load
from semiseg.tools.report import LoadedRun, write_report
from semiseg.tools.report.run_files import read_run
from semiseg.training.run_directory import RunDirectory


def report(runs: Iterable[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of one run, or the page and the picture that compare several; return the page's path."""
    paths = [RunDirectory.open(run).path for run in runs]
    return write_report(paths, Path(out) if out else None, load_run=loaded_run)


def outcome(run: str | Path) -> str:
    """Return in a line how well a finished run did on val, in mIoU; empty where it was never validated."""
    files = read_run(Path(run))
    score = files.scores[0] if files.scores else None
    if score is None or score.val is None:
        return ""
    last = "" if score.last is None else f", {score.last:.1f} at the end"
    return f"{score.network}: mIoU {score.val:.1f} on val at step {files.best_step}{last}"


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
