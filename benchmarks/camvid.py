"""Trains the cells of docs/results.md on CamVid and prints their table.

    python benchmarks/camvid.py --data DIR --out DIR [--cells table,ablation] [--seeds 0] [--jobs 2] [--threads 1]

DIR is CamVid in the own-folder form (docs/data.md). Every cell is `semiseg train --config configs/camvid/METHOD.yaml`
with the options in CELLS; a finished cell is not run again and an interrupted one goes on. The test list is looked at
once a cell, by the checkpoint that val chose (best) and by the one of the last step. Writes OUT/results.json and
OUT/table.md; cells that have not been run are printed as missing.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("supervised", "mean-teacher", "dual-student", "dual-teacher")
ONE = ["--teachers", "1", "--ema-reset", "never"]
FIXED = ["--pool", "cutmix"]
OFF = ["--consistency-weight", "0"]
CELLS = {
    "table": {method: (method, []) for method in METHODS}
    | {"supervised, all labels": ("supervised", ["--labeled", "367"])},
    "ablation": {
        # The same losses, bit for bit, as ("dual-teacher", [*ONE, *FIXED, *OFF]): tests/test_dual_teacher.py.
        "one teacher, CutMix": ("mean-teacher", []),
        "one teacher, CutMix, consistency": ("dual-teacher", [*ONE, *FIXED]),
        "one teacher, switching": ("dual-teacher", [*ONE, *OFF]),
        "one teacher, switching, consistency": ("dual-teacher", ONE),
        "two teachers, CutMix": ("dual-teacher", [*FIXED, *OFF]),
        "two teachers, CutMix, consistency": ("dual-teacher", FIXED),
        "two teachers, switching": ("dual-teacher", OFF),
        "two teachers, switching, consistency": ("dual-teacher", []),
    },
}

EVERY = {**CELLS["table"], **CELLS["ablation"]}


def folder(cell: str) -> str:
    """The name of a cell's runs, without their seed; cells without options of their own share their method's."""
    method, options = EVERY[cell]
    return method if not options else "".join(c if c.isalnum() else "-" for c in cell)


def run(cell: str, seed: int, args: argparse.Namespace) -> None:
    """Train and evaluate one cell, unless that has been done."""
    method, options = EVERY[cell]
    out = Path(args.out) / f"{folder(cell)}-seed{seed}"
    done = out / "test.json"
    if done.exists():
        return
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "PYTHONUNBUFFERED": "1"}
    semiseg = [sys.executable, "-m", "semiseg.cli"]
    if (out / "config.yaml").exists():
        command = [*semiseg, "train", "--resume", str(out)]
    else:
        config = ROOT / "configs" / "camvid" / f"{method}.yaml"
        command = [*semiseg, "train", "--config", str(config), "--data", args.data, "--seed", str(seed)]
        command += ["--out", str(out), *options, *args.extra]
    with open(Path(args.out) / f"{out.name}.log", "a", encoding="utf-8") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=log)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        result: dict[str, Any] = {}
        for checkpoint in ("best", "last"):
            if checkpoint == "last" and result["best"]["step"] == lines[-1]["step"]:
                result["last"] = result["best"]  # one and the same network
                continue
            command = [*semiseg, "evaluate", str(out), "--split", "test", "--checkpoint", checkpoint, "--json"]
            text = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, stderr=log).stdout
            result[checkpoint] = json.loads(text)
    val = [line["miou"] for line in lines if line.get("split") == "val" and line["network"] == "student"]
    result |= {"cell": cell, "seed": seed, "val": max(val), "time_s": lines[-1]["time_s"]}
    done.write_text(json.dumps(result), encoding="utf-8")


def row(cell: str, out: Path, seeds: list[int]) -> str:
    """One line of the table: mean over those of the seeds that have been run."""
    paths = [out / f"{folder(cell)}-seed{seed}" / "test.json" for seed in seeds]
    results = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
    if not results:
        return f"| {cell} | missing | | | | | | |"

    def show(values: list[float]) -> str:
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.2f}{spread}"

    teachers = [r["best"]["networks"] for r in results]
    key = next((k for k in ("teachers-average", "teacher1", "student2") if k in teachers[0]), None)
    columns = [
        show([r["best"]["miou"] for r in results]),
        ", ".join(f"{r['best']['miou']:.2f}" for r in results),
        show([r["last"]["miou"] for r in results]),
        show([t[key]["miou"] for t in teachers]) + f" ({key})" if key else "",
        show([r["val"] for r in results]),
        ", ".join(str(r["best"]["step"]) for r in results),
        ", ".join(str(r["seed"]) for r in results),
    ]
    return f"| {cell} | " + " | ".join(columns) + " |"


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--cells", default="table,ablation")
    parser.add_argument("--only", default=None, help="names of cells, separated by ;")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("extra", nargs="*", help="options for every cell, after --")
    args = parser.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    groups, seeds = args.cells.split(","), [int(seed) for seed in args.seeds.split(",")]
    names = [cell for group in groups for cell in CELLS[group]]
    if args.only is not None:
        names = [cell for cell in names if cell in args.only.split(";")]
    names = list({folder(cell): cell for cell in names}.values())  # what shares a folder runs once
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(run, cell, seed, args) for seed in seeds for cell in names]
        for job in jobs:
            job.result()
    lines = [
        "| cell | test, best on val | each seed | test, last step | companion, same step | val | step | seeds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group in groups:
        lines.extend(row(cell, out, seeds) for cell in CELLS[group])
    table = "\n".join(lines)
    (out / "table.md").write_text(table + "\n", encoding="utf-8")
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.glob("*/test.json"))]
    (out / "results.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
