"""The comparison from end to end: plan, check, train and judge every cell, table, pictures, page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semiseg.errors import UserError, did_you_mean
from semiseg.tools.comparison.cells import Block, Plan, check_list, make_plan
from semiseg.tools.comparison.comparison_page import write_page, write_tables
from semiseg.tools.comparison.comparison_table import make_table, read_results
from semiseg.tools.comparison.entries import ALL, LISTS, SHARED, make_entries, read_file, split_names
from semiseg.tools.comparison.live_progress import Display
from semiseg.tools.comparison.runner import Crew, ended_as_interrupted, locked

Names = str | Sequence[str | int] | None


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
    **options: Any,
) -> dict[str, Any]:
    """Train and test every method with every number of labels and every seed; return the table, see `make_table`.

    All runs share their settings and their start; methods differ in their own options. In ``out``: the runs, table.md,
    .csv and .json, miou_vs_labels.png, pictures.png and report.html. A call with the same ``out`` and settings goes on
    with what is missing there, and may ask for further methods, labels and seeds.

    Args:
        data: as for `train`.
        methods: names of methods or of ``config``'s ``methods:``; all of the latter where absent.
        labeled: shares, numbers or files, as for `train`; ``all`` (where absent) for all masks.
        seeds: 0 where absent.
        out: the directory, new or of an earlier call.
        jobs: how many runs side by side.
        preset: a named set of options.
        config: a YAML file: options of every run, and ``methods, labeled, seeds, preset``; see docs/comparison.md.
        published: set published figures beside one's own, for VOC 2012 and Cityscapes.
        options: any option of every run, with ``_`` for ``-``.

    Raises:
        UserError: the input is at fault; nothing has been trained.
        KeyboardInterrupt: after the tables have been written for what is there.
    """
    given = {key: value for key, value in ({"data": data and str(data)} | options).items() if value is not None}
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}: it must be at least 1")
    plan = plan_of(Path(out), methods, labeled, seeds, preset, config, given)
    plan.check()
    with locked(plan.out) as lock, ended_as_interrupted():
        plan = plan_of(Path(out), methods, labeled, seeds, preset, config, given)  # another call may just have ended
        plan.save()
        crew, display = Crew(plan.todo, jobs, lock), Display(plan.todo, jobs)
        interrupt: KeyboardInterrupt | None = None
        try:
            crew.work(display)
        except KeyboardInterrupt as caught:
            interrupt = caught
        finally:
            display.close()
        results = read_results(plan.cells.values())
        table = make_table(plan, results, crew.failures, published)
        write_tables(plan.out, table)
        write_page(plan, table, results, "the comparison was interrupted" if interrupt else "")
    if interrupt:
        raise interrupt
    return table


def plan_of(
    out: Path,
    methods: Names,
    labeled: Names,
    seeds: int | str | Sequence[int] | None,
    preset: str | None,
    config: str | None,
    given: dict[str, Any],
) -> Plan:
    """Return what to do, from arguments and file; the former win.

    Raises:
        UserError: as `compare`.
    """
    for key in given:
        if key not in SHARED:
            raise UserError(f"unknown option {key!r}: {did_you_mean(key, (*SHARED, *LISTS))}")
    shared, lists = read_file(config)
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in given:  # it wins over the file's length, in whichever way that is given
            shared.pop(other, None)
    overrides = lists.get("methods", {})
    names = as_list(list(overrides) if methods is None else methods, overrides)
    check_list("methods", names)
    shares = [str(share) for share in as_list(lists.get("labeled", ALL) if labeled is None else labeled)]
    check_list("labeled", shares)
    numbers = [as_seed(seed) for seed in as_list(lists.get("seeds", 0) if seeds is None else seeds)]
    check_list("seeds", numbers)
    entries = make_entries(names, overrides, shared | given, preset or lists.get("preset"), config or "methods")
    if not next(iter(entries.values())).config.data:
        raise UserError("--data is missing: give a directory with images/ and masks/, or shapes")
    return make_plan(out, entries, Block(tuple(entries), tuple(shares), tuple(numbers)))


def as_list(values: Any, known: Sequence[str] | dict[str, Any] = ()) -> list[Any]:
    """Return several values, given as a sequence, as text with commas between them, or one alone."""
    if isinstance(values, str):
        return split_names(values, known)
    return list(values) if isinstance(values, Sequence) else [values]


def as_seed(seed: Any) -> int:
    """Return a seed; raises UserError where it is no whole number."""
    try:
        return int(str(seed))
    except ValueError:
        raise UserError(f"--seeds: {seed!r} is no whole number: give e.g. 0,1,2") from None
