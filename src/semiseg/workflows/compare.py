"""``semiseg compare``: train and evaluate several methods, and write a table, plots and a page."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semiseg.option_ranges import AT_LEAST_ONE, range_error
from semiseg.tools.comparison.comparison_page import write_page, write_tables
from semiseg.tools.comparison.comparison_request import Names, plan_comparison
from semiseg.tools.comparison.comparison_table import make_table, read_results
from semiseg.tools.comparison.live_progress import Display
from semiseg.tools.comparison.runner import Runner, locked, signals_as_interrupts


def compare(
    data: str | Path | None = None,
    methods: Names = None,
    labeled: Names = None,
    seeds: int | str | Sequence[int] | None = None,
    out: str | Path = "comparison",
    *,
    jobs: int = 1,
    preset: str | None = None,
    config: str | None = None,
    published: bool = False,
    time: str | float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Train and evaluate every method with every share of labels and every seed; return the table.

    All runs share their settings and their initial student; methods differ in their own options. ``out`` contains the
    runs, table.md, table.csv, table.json, miou_vs_labels.png, pictures.png and report.html. Another call with the same
    ``out`` and settings runs the missing cells; it may request more methods, labels and seeds.

    Args:
        data: Data set, as in `train`.
        methods: Methods, or names from ``methods:`` in ``config``. Default: all names in ``config``, or
            supervised and dual-teacher.
        labeled: Shares, numbers or files, as in `train`, or ``all`` for all masks. Default: ``all``.
        seeds: Seeds. Default: 0.
        out: A new directory, or that of an earlier call.
        jobs: Number of runs at a time.
        preset: Name of a preset.
        config: YAML file with options of every run and ``methods, labeled, seeds, preset``; see docs/comparison.md.
        published: Add published figures (VOC 2012 and Cityscapes).
        time: The time budget of a run, such as ``"20m"``, or ``"auto"``. Options that are not given are planned once
            for all runs. Default: no plan.
        options: Options of every run, with ``_`` instead of ``-``.

    Returns:
        The table, see ``semiseg.tools.comparison.comparison_table.make_table``.

    Raises:
        UserError: The input is invalid. Nothing was trained.
        KeyboardInterrupt: The comparison was interrupted; the tables of the finished cells are written.
    """
    given = {key: value for key, value in ({"data": data and str(data)} | options).items() if value is not None}
    if jobs < 1:
        raise range_error("jobs", jobs, AT_LEAST_ONE)
    request = Path(out), methods, labeled, seeds, preset, config, given
    before = plan_comparison(*request, time, jobs)
    before.check()
    with locked(Path(out)) as lock, signals_as_interrupts():
        plan = plan_comparison(*request, planned=before.planned)  # again, since another comparison may just have ended
        plan.save()
        if plan.planned is not None:
            print("\n".join(plan.planned.describe()), file=sys.stderr)
        runner, display = Runner(plan.current_cells, jobs, lock), Display(plan.current_cells, jobs)
        interrupt: KeyboardInterrupt | None = None
        try:
            runner.run(display)
        except KeyboardInterrupt as caught:
            interrupt = caught
        finally:
            display.close()
        results = read_results(plan.cells.values())
        table = make_table(plan, results, runner.failures, published)
        write_tables(plan.out, table)
        write_page(plan, table, results, "the comparison was interrupted" if interrupt else "")
    if interrupt:
        raise interrupt
    return table
