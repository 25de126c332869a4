"""The supervised run that a run compares with: the command that trains it, and why another one does not compare."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from typing import Any

from semiseg.config import TrainConfig
from semiseg.tools.report.run_files import RunFiles

IGNORED_IN_COMPARISON = {
    *("method", "workers", "accelerator", "devices", "nodes", "precision", "tensorboard", "tracker", "keep", "strict"),
    "safeguard",
}
"""Options that may differ between a run and the supervised run that it is compared with."""
LENGTHS = ("steps", "epochs")
SHOWN = 3  # options


def why_not_comparable(run: RunFiles, other: RunFiles) -> str:
    """Return how a supervised run differs from a run in settings, lists or length; empty if they compare."""
    last, other_last = (each.validations[-1]["step"] if each.validations else 0 for each in (run, other))
    if last != other_last:
        return f"it has trained for {other_last} steps, this run for {last}"
    if last < (run.config.get("steps") or 0) or not last:
        return "this run is not finished"
    shared = [key for key in run.config if key in other.config and key not in IGNORED_IN_COMPARISON]
    different = [key for key in shared if run.config[key] != other.config[key]]
    if different:
        names = ", ".join(f"--{key.replace('_', '-')}" for key in different[:SHOWN])
        return f"it has another {names}{' and others' * (len(different) > SHOWN)}"
    for name in ("labeled", "val"):
        paths = [each.path / "splits" / f"{name}.txt" for each in (run, other)]
        if not all(path.is_file() for path in paths) or paths[0].read_bytes() != paths[1].read_bytes():
            return f"it has other {name} images"
    return ""


def baseline_command(run: RunFiles) -> str:
    """Return the command that trains the supervised run which differs from a run in nothing but the method.

    A run without a plan may differ from what ``semiseg train`` plans; for it, the command is a comparison.
    """
    data = shlex.quote(str(run.config.get("data") or "DIR"))
    length = next((name for name in LENGTHS if run.config.get(name)), None)
    amount = f" --{length} {run.config[length]}" if length else ""
    planned = _planned_values(run)
    if planned is None or not length:
        return f"semiseg compare --data {data}{amount or ' --time 20m'}"
    options = ""
    for field in fields(TrainConfig):
        value = run.config.get(field.name, field.default)
        expected = planned.get(field.name, field.default)
        if field.name not in _NAMED and value is not None and value != expected:
            options += f" --{field.name.replace('_', '-')} {_argument(value)}"
    beside = run.path.parent
    out = beside / "supervised"
    if out.exists():
        out = beside / f"supervised-{run.config[length]}-{length}"
    return f"semiseg train --data {data} --method supervised{amount}{options} --out {shlex.quote(str(out))}"


_NAMED = {"data", *LENGTHS, "network_version", *IGNORED_IN_COMPARISON}


def _argument(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, list) else shlex.quote(str(value))


def _planned_values(run: RunFiles) -> dict[str, Any] | None:
    """Return the planned options of a run; None if it has no readable plan."""
    try:
        content = json.loads((run.path / "plan.json").read_text("utf-8"))
        values = {name: value for line in content["lines"] for name, value in line["values"].items()}
        return values | dict.fromkeys(content.get("given", {}))  # given options differ from what it would plan
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
