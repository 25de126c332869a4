"""What is looked at before a run goes on: whether it is the run that it was, and whether nothing of it is lost."""

from __future__ import annotations

from itertools import chain, zip_longest
from typing import Any

from semiseg.config import TrainConfig
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.dataset_split import Split
from semiseg.errors import UserError, short_repr
from semiseg.training.checkpoint import START_OVER, load_checkpoint
from semiseg.training.logging.metrics_log import read_metrics
from semiseg.training.run_directory import RunDirectory


def steps_between(config: TrainConfig, total_steps: int) -> int:
    """Return after how many steps a run validates and saves, each time."""
    every = config.val_every
    return max(1, total_steps // 10) if every in ("auto", "never") else int(every)


def read_state(run: RunDirectory, dataset: SegmentationDataset, split: Split) -> dict[str, Any] | None:
    """Return the checkpoint that a run goes on from, None where none is there.

    Raises:
        UserError: what is there cannot be read or leads nowhere; the data have other classes or colors than when it was
            written; a list is empty, with which no run begins; or the mask of one of its images has gone.
    """
    for name, ids in (("labeled", split.labeled), ("val", split.val)):
        if not ids:
            path = run.path / "splits" / f"{name}.txt"
            raise UserError(f"{path}: the list is empty, and no run begins so: put back what was in it")
    for id in chain(split.labeled, split.val, split.test):
        if not dataset.has_mask(id):
            raise UserError(f"{dataset.name}: {id!r} of the run's lists has no mask any more: put it back")
    if run.last.is_symlink() and not run.last.exists():
        raise UserError(f"{run.last}: a link that leads nowhere: put back what it leads to, or {START_OVER}")
    if not run.last.exists():
        return None
    state = load_checkpoint(run.last)
    colors = [list(color) for color in dataset.palette]
    for what, before, now in (("name", state["classes"], [*dataset.classes]), ("color", state["palette"], colors)):
        pairs = enumerate(zip_longest(before, now))
        if other := next((f"{i} is {short_repr(b)} now and was {short_repr(a)}" for i, (a, b) in pairs if a != b), ""):
            raise UserError(
                f"{dataset.name}: not the classes that {run.path} has learned (the {what} of class {other}): put them "
                "back, or train anew with another --out"
            )
    return state


def check_nothing_lost(run: RunDirectory, first_saved: int) -> bool:
    """Tell whether a run without last.pt has taken steps before; it ended before it was saved, and starts again.

    A run writes its lines, then best.pt, then last.pt. So a crash may leave the lines of the first validation, and
    best.pt of that step, without a last.pt; what goes beyond them shows that one was there.

    Args:
        run: its directory.
        first_saved: the step after which it is saved first, if nobody asks it to end before.

    Raises:
        UserError: it has been saved before, so that to start again would overwrite it.
    """
    reached = max((line["step"] for line in read_metrics(run.metrics)), default=0)
    best = load_checkpoint(run.best)["step"] if run.best.exists() else 0
    kept = next(run.last.parent.glob("step-*.pt"), None)
    finished = (run.path / "report.html").is_file() and reached == best == first_saved
    if kept or finished or reached > first_saved or best > min(first_saved, reached):
        raise UserError(
            f"{run.last}: there is none, though the run has got to step {max(reached, best)}: put it back, or "
            f"{START_OVER}"
        )
    return reached > 0
