"""Evaluate a trained model and update the report of its run."""

from __future__ import annotations

import sys
from pathlib import Path

from semiseg.errors import UserError, printable
from semiseg.tools.models.evaluate_model import evaluate
from semiseg.workflows.report import report

__all__ = ["evaluate", "refresh_report"]


def refresh_report(run: str | Path) -> None:
    """Write the report of a run again, if it has one; print a warning if that fails."""
    if not (Path(run) / "report.html").is_file():
        return
    try:
        report([run])
    except UserError as error:
        print(f"warning: the report is not updated: {printable(str(error))}", file=sys.stderr)
