"""Print a plan, one line per choice with its reason, and read time budgets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from semiseg.errors import UserError

WIDTH = 36  # of the column of options
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_time(text: str | float) -> float:
    """Return a time budget in seconds.

    Args:
        text: Hours, minutes and seconds (``1h``, ``20m``, ``1h30m``, ``90s``), or a number of seconds.

    Raises:
        UserError: It is not a time.

    Example:
        >>> parse_time("1h30m")
        5400.0
    """
    if isinstance(text, str):
        parts = re.findall(r"(\d+(?:\.\d+)?)([hms])", text)
        if not parts or "".join(map("".join, parts)) != text:
            raise UserError(f"{text!r} is not a time", option="time", fix="give e.g. 20m, 1h30m or 90s")
        text = sum(float(number) * UNITS[unit] for number, unit in parts)
    if not 0 < text < 365 * 24 * 3600:
        raise UserError(f"{text:g} s is out of range", option="time", fix="give e.g. 20m or 1h30m")
    return float(text)


def format_plan(plan: Mapping[str, Any]) -> list[str]:
    """Return the lines of the content of plan.json."""
    lines = [f"plan for {describe_data(plan['data'])}", f"  device: {plan['device']['text']}"]
    rows = [(_options(line["values"]), line["reason"]) for line in plan["lines"]]
    for options, reason in rows:
        lines.append(f"  {options:<{WIDTH}}  {reason}" if len(options) <= WIDTH else f"  {options}")
        if len(options) > WIDTH:
            lines.append(f"  {'':<{WIDTH}}  {reason}")
    if plan["given"]:
        lines.append(f"  given: {_options(plan['given'])}")
    return lines + [f"  {note}" if note.startswith("no val") else note for note in plan["notes"]]


def describe_data(data: Mapping[str, Any]) -> str:
    """Return the fingerprint of the data in words."""
    width, height = data["sizes"][1]
    counts = f"{data['labeled']} labeled, {data['unlabeled']} unlabeled and {data['val']} val images"
    return f"{counts} of about {width} x {height} pixels, {data['classes']} classes"


def _options(values: Mapping[str, Any]) -> str:
    return " ".join(_option(name.replace("_", "-"), value) for name, value in values.items())


def _option(name: str, value: Any) -> str:
    """Return an option as the command line takes it."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    if isinstance(value, list | tuple):
        return f"--{name} {' '.join(map(str, value))}"
    return f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"
