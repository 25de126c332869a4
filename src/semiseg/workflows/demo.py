"""``semiseg demo``: three runs on generated images that differ only in the method or the labels."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from semiseg.errors import UserError
from semiseg.tools.models.evaluate_model import evaluate
from semiseg.training.resolve_config import resolve
from semiseg.workflows.report import report
from semiseg.workflows.train import train_with

# Settings of all three runs, chosen on val (docs/results.md).
SETTINGS: dict[str, Any] = {
    "data": "shapes:images=480,val=40,test=100,size=96",
    "labeled": "30",
    "steps": 400,
    "batch_size": 8,
    "crop_size": 96,
    "scale_min": 0.75,
    "scale_max": 1.5,
    "val_every": 100,
    "workers": 0,
    "accelerator": "auto",
}
SHORT: dict[str, Any] = {
    "data": "shapes:images=48,val=6,test=12,size=64",
    "labeled": "8",
    "steps": 8,
    "batch_size": 4,
    "crop_size": 64,
    "val_every": 4,
}
RUNS: dict[str, dict[str, Any]] = {
    "supervised": {"method": "supervised"},
    "dual-teacher": {
        "method": "dual-teacher",
        "ema_decay": 0.97,  # an average over about 30 of the 400 steps
        "ramp_up": 0.1,
        "label_temperature": 0.0,  # hard pseudo-labels, as in the paper
        "color_strength": 0.5,  # The color of a shape does not depend on its class.
    },
    "all-labels": {"method": "supervised", "labeled": None},
}


def run_demo(out: Path, seed: int = 0, short: bool = False) -> dict[str, Any]:
    """Train supervised, Dual Teacher, and supervised on all labels; compare them on test images.

    Args:
        out: A new directory for the three runs and the page that compares them.
        seed: Seed of data, labels and training.
        short: Train for a few steps only, to check that everything works.

    Returns:
        Test mIoU in percent of each run's best checkpoint, ``gain`` (dual-teacher - supervised), and ``report``, the
        absolute path of the page.

    Raises:
        UserError: ``out`` is a file, or a directory that is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("already exists", path=out, fix="choose another --out, or remove it")
    result: dict[str, Any] = {}
    for number, (name, values) in enumerate(RUNS.items(), 1):
        print(f"\n[{number}/{len(RUNS)}] {name}", file=sys.stderr)
        settings = SETTINGS | (SHORT if short else {}) | {"seed": seed} | values
        config, options = resolve(settings, preset="small")
        train_with(replace(config, data=f"{config.data},seed={seed}"), options, out / name)
        result[name] = evaluate(out / name, split="test")["miou"]
    result["gain"] = result["dual-teacher"] - result["supervised"]
    page = report([out / name for name in RUNS], out / "report.html")
    result["report"] = str(page.resolve())
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in result.items()}
