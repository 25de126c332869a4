"""A small comparison for the tests: its plan, and finished cells without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from semiseg.tools.comparison.cells import Cell
from semiseg.tools.comparison.comparison_plan import Plan
from semiseg.tools.comparison.comparison_request import plan_comparison
from semiseg.tools.comparison.comparison_table import make_table, read_results

DATA = "shapes:images=10,val=3,test=2,size=48"
QUICK: dict[str, Any] = {
    **{"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0},
    **{"accelerator": "cpu", "steps": 4, "val_every": 2},
}


def make_plan(
    out: Path, methods: Any = "supervised,mean-teacher", labeled: Any = "4", seeds: Any = "0", **options: Any
) -> Plan:
    """Plan a comparison on generated images."""
    preset, config = options.pop("preset", None), options.pop("config", None)
    return plan_comparison(out, methods, labeled, seeds, preset, config, {"data": DATA} | QUICK | options)


def finish(cell: Cell, best: float, last: float, **changes: Any) -> None:
    """Write the results of a cell."""
    best, last = float(best), float(last)
    networks = {"student": best} if cell.name == "supervised" else {"student": best, "teacher1": best - 1}
    summaries = {n: {"miou": m, "pixel_accuracy": 50.0, "iou": {"a": m, "b": None}} for n, m in networks.items()}
    evaluation = summaries["student"] | {"network": "student", "networks": summaries, "step": 2}
    content = {"split": cell.split, "val": best + 5, "best": evaluation, "last": evaluation | {"miou": last}} | changes
    cell.run.mkdir(parents=True)
    (cell.run / "config.yaml").write_text("method: x\n")
    cell.result.write_text(json.dumps(content))
    costs = {"trainable_parameters": 3_900_000, "training_s": 90.0 + cell.seed, "peak_memory_mb": 500.0 + cell.seed}
    (cell.run / "resources.json").write_text(json.dumps(costs | {"device": "cpu"}))


def table_of(plan: Plan, failures: dict[Path, str] | None = None, published: bool = False) -> dict[str, Any]:
    """Return the table of the finished cells."""
    return make_table(plan, read_results(plan.cells.values()), failures or {}, published)
