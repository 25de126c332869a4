"""Resolve the arguments of ``semiseg compare`` and its configuration file to a plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from semiseg.config import EXCLUSIVE, TrainConfig, check_mapping, read_yaml
from semiseg.errors import UserError, unknown
from semiseg.methods import ALIASES
from semiseg.tools.comparison.cell_plan import CellPlan, plan_cells, read_cell_plan
from semiseg.tools.comparison.cells import Block
from semiseg.tools.comparison.comparison_plan import FILE, Plan, make_plan
from semiseg.tools.comparison.method_entries import ALL, SHARED, make_entries
from semiseg.tools.planning.planner import LENGTHS
from semiseg.training.resolve_config import given_options

Names = str | Sequence[str | int] | None
LISTS = ("methods", "labeled", "seeds")
DEFAULT_METHODS = ("supervised", "dual-teacher")


def plan_comparison(
    out: Path,
    methods: Names,
    labeled: Names,
    seeds: int | str | Sequence[int] | None,
    preset: str | None,
    config: str | None,
    options: dict[str, Any],
    time: str | float | None = None,
    jobs: int = 1,
    planned: CellPlan | None = None,
) -> Plan:
    """Return the plan for the arguments of ``semiseg.compare``; they win over the configuration file.

    With ``time``, or in a directory with a plan, options that are not given are planned.

    Raises:
        UserError: An argument or the file is invalid.
    """
    for key in options:
        if key not in SHARED:
            raise unknown("option", key, (*SHARED, *LISTS))
    shared, lists = read_file(config)
    if time not in (None, "auto"):  # replaces the length of the file
        shared = {name: value for name, value in shared.items() if name not in LENGTHS}
    for pair in EXCLUSIVE:
        for one, other in (pair, pair[::-1]):
            if one in options:
                shared.pop(other, None)
    overrides = lists.get("methods", {})
    names = as_list((list(overrides) or DEFAULT_METHODS) if methods is None else methods, overrides)
    shares = [str(share) for share in as_list(lists.get("labeled", ALL) if labeled is None else labeled)]
    numbers = [parse_seed(seed) for seed in as_list(lists.get("seeds", 0) if seeds is None else seeds)]
    check_list("methods", names)
    check_list("labeled", shares)
    check_list("seeds", numbers)
    arguments = names, overrides, shared | options, preset or lists.get("preset"), config or "methods"
    entries = make_entries(*arguments)
    if not next(iter(entries.values())).config.data:
        raise UserError("not given", option="data", fix="give a directory with images/ and masks/, or shapes")
    if planned is None and (out / FILE).exists():
        planned = read_cell_plan(out, time)
    elif planned is None and time is not None:
        given = given_options({**shared, **options}, arguments[3])
        planned = plan_cells(list(entries.values()), given, shares[0], time, jobs)
    if planned is not None:
        entries = make_entries(*arguments, planned=planned.values)
    return make_plan(out, entries, Block(tuple(entries), tuple(shares), tuple(numbers)), planned)


def read_file(file: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the YAML file of a comparison: options of every run, and ``methods, labeled, seeds, preset``.

    Raises:
        UserError: The file cannot be read, or a key or value is invalid.
    """
    if file is None:
        return {}, {}
    values = {key.replace("-", "_"): value for key, value in read_yaml(Path(file)).items()}
    known = (*SHARED, *LISTS, "preset")
    for key in values:
        if key not in known:
            raise unknown("key", key, known, file)
    lists = {key: values.pop(key) for key in (*LISTS, "preset") if key in values}
    methods = lists.get("methods", {})
    if not isinstance(methods, dict) or not all(isinstance(v, dict) or v is None for v in methods.values()):
        problem, fix = "methods is not a mapping of names to options", "write lines 'name: {option: value, ...}'"
        raise UserError(problem, path=file, fix=fix)
    lists["methods"] = {ALIASES.get(str(name), str(name)): values or {} for name, values in methods.items()}
    if len(lists["methods"]) < len(methods):
        raise UserError("methods: a method is listed by its name and its alias", path=file, fix="remove one of them")
    return check_mapping((TrainConfig,), values, file), lists


def as_list(values: Any, known: Iterable[str] = ()) -> list[Any]:
    """Return the values of a sequence, of a text with commas, or a single value, as a list."""
    if isinstance(values, str):
        return split_names(values, known)
    return list(values) if isinstance(values, Sequence) else [values]


def split_names(text: str, known: Iterable[str]) -> list[str]:
    """Split names separated by commas; of known names that contain commas, the longest match wins.

    Example:
        >>> split_names("supervised, two teachers, mixed", ["two teachers, mixed"])
        ['supervised', 'two teachers, mixed']
    """
    whole = {tuple(piece.strip() for piece in name.split(",")): name for name in known}
    pieces, names = [piece.strip() for piece in text.split(",")], []
    while pieces:
        length = next((end for end in range(len(pieces), 1, -1) if tuple(pieces[:end]) in whole), 1)
        names.append(whole.get(tuple(pieces[:length]), pieces[0]))
        pieces = pieces[length:]
    return [name for name in names if name]


def parse_seed(seed: Any) -> int:
    """Return a seed as an integer; raise UserError if it is not one."""
    try:
        return int(str(seed))
    except ValueError:
        raise UserError(f"{seed!r} is not an integer", option="seeds", fix="give e.g. 0,1,2") from None


def check_list(option: str, values: Sequence[Any]) -> None:
    """Raise UserError if a list is empty or contains a value twice."""
    if not values:
        raise UserError("no values given", option=option, fix="give one or more, separated by commas")
    for index, value in enumerate(values):
        if value in values[:index]:
            raise UserError(f"{value} is listed twice", option=option, fix="remove one of them")
