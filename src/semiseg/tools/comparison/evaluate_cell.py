"""Evaluate the best and the last checkpoint of a cell, in a process of its own.

``python -m semiseg.tools.comparison.evaluate_cell RUN SPLIT ACCELERATOR``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from semiseg.config import read_train_config, read_yaml
from semiseg.tools.models.evaluate_model import evaluate
from semiseg.tools.report.write_report import write_report
from semiseg.training.checkpoint import write_atomically
from semiseg.training.logging.metrics_log import read_metrics
from semiseg.training.run_directory import RunDirectory


def evaluate_cell(path: Path, split: str, accelerator: str = "auto") -> dict[str, Any]:
    """Evaluate a run's checkpoints, in the mode of its validation, write ``evaluation.json``, and return its content.

    Returns:
        ``split``; ``best`` and ``last``, the results of `semiseg.evaluate` for these checkpoints (evaluated once if
        they are the same); and ``val``, the default network's highest mIoU on val during training, or None.
    """
    sliding = read_train_config(read_yaml(path / "config.yaml"), str(path)).val_mode == "slide"
    best = evaluate(path, split=split, checkpoint="best", sliding=sliding, accelerator=accelerator)
    lines = read_metrics(RunDirectory(path).metrics)
    if best["step"] == lines[-1]["step"]:
        last = best | {"checkpoint": "last"}
    else:
        last = evaluate(path, split=split, checkpoint="last", sliding=sliding, accelerator=accelerator)
    result = {"split": split, "val": best_on_val(lines, best["network"]), "best": best, "last": last}
    write_report([path])  # with the figures on test
    write_atomically(path / "evaluation.json", (json.dumps(result) + "\n").encode())
    return result


def best_on_val(lines: list[dict[str, Any]], network: str) -> float | None:
    """Return the highest mIoU on val of a network in lines of metrics.jsonl; None before the first validation."""
    found = [line["miou"] for line in lines if line.get("split") == "val" and line["network"] == network]
    return max((miou for miou in found if miou is not None), default=None)


if __name__ == "__main__":
    evaluate_cell(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
