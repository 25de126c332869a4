"""``semiseg report``: write the report of a run or compare several runs."""

from __future__ import annotations

from dataclasses import dataclass

import tyro

from semiseg.cli.option_parsing import Argv, parse


@dataclass
class Report:
    """Write the report of one run, or a page and a chart that compare several."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run directories."""
    out: str | None = None
    """HTML file; default: report.html in the run, or next to the first of several runs."""
    data: str | None = None
    """Data set of the runs if it has moved, for the pictures."""


def report(argv: Argv) -> None:
    """Write the report of one run, or compare several."""
    from semiseg.workflows.report import report as run

    args: Report = parse(Report, argv, "semiseg report")
    print(run(args.runs, args.out, args.data))
