"""Plan the cells of a comparison once: all share the settings, and the slowest method takes the time budget."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from semiseg.config import TrainConfig, from_mapping
from semiseg.errors import UserError
from semiseg.methods import METHODS
from semiseg.tools.comparison.method_entries import ALL, SHARED, MethodEntry
from semiseg.tools.planning.plan_text import format_plan, parse_time
from semiseg.tools.planning.plan_training import plan_training
from semiseg.tools.planning.planner import LENGTHS, Plan
from semiseg.tools.planning.settings_table import length_settings
from semiseg.tools.planning.trial_steps import Speed, StepTimer, time_steps
from semiseg.training.find_method import find_method

FILE = "plan.json"


@dataclass(frozen=True)
class CellPlan:
    """The planned options of the cells, below all given ones.

    Attributes:
        content: The content of plan.json.
    """

    content: Mapping[str, Any]

    @property
    def shared(self) -> dict[str, Any]:
        """The options that all cells share."""
        planned = {name: value for line in self.content["lines"] for name, value in line["values"].items()}
        return {name: value for name, value in planned.items() if name in SHARED}

    def values(self, method: str) -> dict[str, Any]:
        """Return the options of a cell with a method."""
        return self.shared | self.content["methods"].get(method, {})

    def describe(self) -> list[str]:
        """Return the plan as lines."""
        return format_plan(self.content)


def read_cell_plan(out: Path, time: str | float | None) -> CellPlan | None:
    """Return the plan of an earlier call in the same directory, or None if it had none.

    Raises:
        UserError: It had another time budget.
    """
    path = out / FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if time not in (None, "auto"):
        budget = content and content["time_s"]
        if budget != parse_time(time or 0):
            planned = f"planned for {budget:g} s" if budget else "without a time budget"
            fix = "leave --time out, or choose another --out"
            raise UserError(f"contains a comparison {planned}", path=out, fix=fix)
    return CellPlan(content) if content else None


def plan_cells(
    entries: Sequence[MethodEntry],
    given: Mapping[str, Any],
    labeled: str,
    time: str | float,
    jobs: int,
    timer: StepTimer | None = None,
) -> CellPlan:
    """Plan the cells of new methods.

    Args:
        entries: The methods with their given options.
        given: The given options that all cells share.
        labeled: The first share of labels.
        time: The time budget of a cell, or ``auto`` for that of the device.
        jobs: Number of cells at a time.
        timer: Measures steps. Default: `time_steps`.

    Raises:
        UserError: The data or an option is invalid.
    """
    lengths = [name for name in LENGTHS if given.get(name)]
    if time != "auto" and lengths:
        raise UserError(f"cannot be combined with --{lengths[0]}", option="time", fix="pass one of them")
    first = next((entry for entry in entries if find_method(entry.config.method).uses_unlabeled), entries[0])
    share = {} if labeled == ALL else {"labeled": labeled}
    values = {**given, **share, "method": first.config.method}
    slowest = slowest_of(entries, timer or time_steps)
    plan = plan_training(values, None if time == "auto" else parse_time(time), timer=slowest, jobs=jobs)
    steps = int(plan.values.get("steps") or given.get("steps") or 0)
    return CellPlan(plan.to_json() | {"methods": {name: of_method(name, plan, steps) for name in METHODS}})


def of_method(method: str, plan: Plan, steps: int) -> dict[str, Any]:
    """Return the planned options of a method; those of ``--epochs`` are the ones of a long run."""
    known = {field.name for field in fields(METHODS[method].Options)}
    settings = length_settings(method, steps or 10**9) if METHODS[method].uses_unlabeled else ()
    return {name: value for setting in settings for name, value in setting.values.items() if name in known}


def slowest_of(entries: Sequence[MethodEntry], timer: StepTimer) -> StepTimer:
    """Return a timer that measures every method and returns the slowest; None if one does not fit into memory."""

    def slowest(config: TrainConfig, options: Any, threads: int) -> Speed | None:
        planned, speeds = vars(options), []
        for entry in entries:
            kind = find_method(entry.config.method).Options
            own = {f.name: planned[f.name] for f in fields(kind) if f.name in planned}
            values = vars(config) | own | {"method": entry.config.method}
            cell, cell_options = from_mapping((TrainConfig, kind), values, "options")
            speeds.append(timer(cell, cell_options, threads))
        found = [speed for speed in speeds if speed is not None]
        return max(found, key=lambda speed: speed.step_s) if len(found) == len(speeds) else None

    return slowest
