"""``semiseg reproduce``: repeat a published table and compare our figures with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from semiseg.errors import UserError, lookup
from semiseg.inference.predictor import find_accelerator
from semiseg.option_ranges import AT_LEAST_ONE, range_error
from semiseg.tools.comparison.comparison_table import read_results
from semiseg.tools.comparison.live_progress import Display
from semiseg.tools.comparison.runner import Runner, locked, signals_as_interrupts
from semiseg.tools.report.load_run import load_run
from semiseg.tools.reproduction.published_tables import TABLES, PublishedTable, config_folder, read_entries
from semiseg.tools.reproduction.reproduction_plan import (
    DONE,
    READY,
    TOO_LONG,
    Lists,
    PlannedRun,
    Selection,
    check_settings,
    plan_runs,
)
from semiseg.tools.reproduction.reproduction_table import (
    conditions,
    make_rows,
    table_1,
    table_1_markdown,
    to_markdown,
)
from semiseg.tools.reproduction.step_timing import step_seconds
from semiseg.training.checkpoint import write_atomically
from semiseg.visualization.mask_pictures import save_picture
from semiseg.visualization.run_pictures import comparison_picture

FIGURE_4 = {"supervised": "supervised", "mean-teacher": "mean teacher", "dual-teacher": "dual teacher"}
HERE = ("accelerator", "workers", "precision")
"""Options that fit a run to the machine and do not scale it down."""


def reproduce(
    table: str,
    data: str | Path | None = None,
    out: str | Path = "reproduction",
    *,
    methods: Sequence[str] | None = None,
    labeled: Sequence[str] | None = None,
    encoders: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    configs: str | Path | None = None,
    dry_run: bool = False,
    existing_only: bool = False,
    jobs: int = 1,
    max_hours: float = 48.0,
    **options: Any,
) -> dict[str, Any]:
    """Repeat a published table with the configurations in ``configs/``; return our figures and the published ones.

    ``out`` contains the runs, table.md and table.json; for ``voc2012-highquality`` also dual-teacher-table1.md, .json
    and dual-teacher-figure4.png. Another call with the same ``out`` resumes.

    Args:
        table: Name of the table, see ``TABLES``.
        data: The data set. With ``dry_run``, None plans by the published numbers of images.
        out: A new directory, or that of an earlier call.
        methods: Methods or names of configurations. Default: all, also for ``labeled`` and ``encoders``.
        labeled: Partitions, such as 92 or 1/16.
        encoders: Encoders, such as resnet50.
        seeds: Seeds.
        configs: The folder of the configurations. Default: ``configs/`` here or in the repository.
        dry_run: Only plan: list the runs, the published figures and the estimated hours.
        existing_only: Leave out images of the lists that do not exist.
        jobs: Number of runs at a time.
        max_hours: Leave out runs that would take longer on this machine.
        options: Options that replace those of every configuration. All but ``accelerator``, ``workers`` and
            ``precision`` scale the table down, which its outputs say.

    Raises:
        UserError: The input is invalid. Nothing was trained.
        KeyboardInterrupt: The reproduction was interrupted; the tables of the finished runs are written.
    """
    published = lookup("table", table, TABLES)
    if jobs < 1:
        raise range_error("jobs", jobs, AT_LEAST_ONE)
    if data is None and not dry_run:
        raise UserError("not given", option="data", fix="give the data set, or pass --dry-run to print the plan")
    options = {key: value for key, value in options.items() if value is not None}
    selection = Selection(methods, labeled, encoders, seeds)
    entries = read_entries(published, config_folder(configs), options)
    lists = Lists(published, str(data or ""), existing_only)
    runs = plan_runs(published, entries, selection, lists, Path(out), options)
    device = device_name(str(options.get("accelerator", "auto")))
    estimate(runs, published, max_hours)
    content = {
        **{"table": table, "title": published.title, "data": str(data) if data else None, "device": device},
        "scaled_down": {key: value for key, value in options.items() if key not in HERE},
        **{"existing_only": existing_only, "rows": make_rows(published, runs, {})},
    }
    if dry_run:
        return content
    check_settings(runs)
    with locked(Path(out)) as lock, signals_as_interrupts():
        cells = [run.cell for run in runs if run.state in (READY, DONE)]
        runner, display = Runner(cells, jobs, lock), Display(cells, jobs)
        try:
            runner.run(display)
        finally:
            display.close()
            for run in runs:
                if run.cell.finished:
                    run.state = DONE
                elif run.cell.run in runner.failures:
                    run.state, run.reason = "failed", runner.failures[run.cell.run]
            content["rows"] = make_rows(published, runs, read_results([run.cell for run in runs]))
            write_outputs(Path(out), table, content, runs)
    return content


def device_name(accelerator: str) -> str:
    """Return the name of the device that runs would use."""
    kind = find_accelerator(accelerator)
    return torch.cuda.get_device_name() if kind == "cuda" else kind.upper()


def estimate(runs: Sequence[PlannedRun], table: PublishedTable, max_hours: float) -> None:
    """Time a step of each configuration that has runs to do, and mark those that would take more than ``max_hours``.

    Raises:
        UserError: A method cannot use its network.
    """
    seconds: dict[str, float | None] = {}
    for run in runs:
        if run.state != READY:
            continue
        name = run.entry.name
        if name not in seconds:
            print(f"timing a step of {name}", file=sys.stderr)
            try:
                seconds[name] = step_seconds(run.cell.config, run.cell.options, table.classes)
            except ValueError as error:
                raise UserError(f"{name}: {error}") from None
        run.step_s = seconds[name]
        if run.hours is None:
            run.state, run.reason = TOO_LONG, "a step does not fit into the memory of this machine"
        elif run.hours > max_hours:
            run.state, run.reason = TOO_LONG, f"more than --max-hours {max_hours:g}"


def write_outputs(out: Path, table: str, content: Mapping[str, Any], runs: Sequence[PlannedRun]) -> None:
    """Write the tables, and for VOC's high-quality masks Table 1 and Figure 4 of Dual Teacher."""
    write_atomically(out / "table.md", to_markdown(content).encode())
    write_atomically(out / "table.json", (json.dumps(content, indent=1) + "\n").encode())
    if table != "voc2012-highquality":
        return
    if (first := table_1(content["rows"])) is not None:
        marks = {key: content[key] for key in ("scaled_down", "existing_only")}
        write_atomically(out / "dual-teacher-table1.json", (json.dumps(first | marks, indent=1) + "\n").encode())
        write_atomically(out / "dual-teacher-table1.md", table_1_markdown(first, conditions(content)).encode())
    if chosen := figure_4_runs(runs):
        mark = " (scaled down)" if content["scaled_down"] else ""
        loaded = {name + mark: load_run(run.cell.run) for name, run in chosen.items()}
        picture, ids = comparison_picture(loaded, rows=4)
        texts = {"images": ", ".join(ids), "labels": next(iter(chosen.values())).cell.labeled}
        texts["scaled down"] = json.dumps(content["scaled_down"])
        save_picture(picture, out / "dual-teacher-figure4.png", texts)


def figure_4_runs(runs: Sequence[PlannedRun]) -> dict[str, PlannedRun]:
    """Return finished runs of Figure 4's methods with the same encoder, labels and seed; the fewest labels first."""
    groups: dict[tuple[str, str, int], dict[str, PlannedRun]] = {}
    for run in runs:
        if run.state == DONE and run.entry.method in FIGURE_4:
            key = run.entry.encoder.removesuffix("s"), run.cell.labeled, run.cell.seed
            groups.setdefault(key, {}).setdefault(FIGURE_4[run.entry.method], run)
    complete = [group for group in groups.values() if len(group) == len(FIGURE_4)]
    return {name: complete[0][name] for name in FIGURE_4.values()} if complete else {}
