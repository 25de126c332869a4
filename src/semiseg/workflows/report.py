"""``semiseg report``: write the page of one run, or compare several on one page."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from semiseg.tools.report.load_run import load_run
from semiseg.tools.report.write_report import write_report
from semiseg.training.run_directory import RunDirectory


def report(runs: Iterable[str | Path], out: str | Path | None = None, data: str | Path | None = None) -> Path:
    """Write the report of one run, or a page and a picture that compare several; return the page's path.

    Args:
        runs: Run directories.
        out: The page, or a directory for it. Default: ``RUN/report.html`` for one run, ``report.html`` next to the
            first run for several.
        data: The data of the runs, if they are elsewhere now.

    Raises:
        UserError: No run is given, a directory is not a run, or the page cannot be written.
    """
    paths = [RunDirectory.open(run).path for run in runs]
    return write_report(paths, Path(out) if out else None, partial(load_run, data=data))
