"""Efficiency of `predict` and `prepare shards` in N jobs: CPU time of one job over that of N jobs with --part I/N.

    python benchmarks/parts.py [--images 48] [--parts 1 2 4] [--json FILE]

The jobs take turns, with one thread each, so they do not compete for memory and disk. Start-up and planning are part
of each job: the last column is the CPU time that each further job adds. Also checks that the files do not depend on N.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from loader import generate

TRAIN = ("--steps", "1", "--workers", "0", "--weights", "none", "--crop-size", "64", "--batch-size", "2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--size", default="480x360")
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure(args, Path(scratch))
    print(f"{'command':<16}{'jobs':>6}{'CPU ms/image':>14}{'efficiency':>12}{'s per job':>12}")
    for row in rows:
        print(f"{row['command']:<16}{row['jobs']:>6}{row['cpu_ms']:>14.1f}{row['efficiency']:>12.2f}", end="")
        print(f"{row['job_s']:>12.1f}")
    if args.json:
        args.json.write_text(json.dumps({"images": args.images, "size": args.size, "rows": rows}, indent=1) + "\n")


def measure(args: argparse.Namespace, scratch: Path) -> list[dict[str, Any]]:
    """Return a row for each command and number of jobs."""
    images = generate(scratch / "data", args.size, args.images - 1) / "images"
    run = scratch / "run"
    cpu_seconds("train", "--data", "shapes:images=8,val=1,test=1,size=64", "--labeled", "4", "--out", run, *TRAIN)
    commands = {
        "predict": lambda source, out, part: ("predict", run, source, "--out", out, "--part", part),
        "prepare shards": lambda source, out, part: (
            *("prepare", "shards", "--from", source, "--out", out / part.replace("/", "-"), "--part", part),
            *("--images-per-shard", "4"),
        ),
    }
    rows: list[dict[str, Any]] = []
    for name, command in commands.items():
        times: dict[int, float] = {}
        files: dict[int, dict[str, bytes]] = {}
        for jobs in args.parts:
            out = scratch / f"{name} {jobs}"
            times[jobs] = sum(cpu_seconds(*command(images, out, f"{index + 1}/{jobs}")) for index in range(jobs))
            found = (path for path in out.rglob("*") if path.suffix in (".png", ".tar"))
            files[jobs] = {path.name: path.read_bytes() for path in found}
            if files[jobs] != files[args.parts[0]]:
                raise RuntimeError(f"{name}: the files of {jobs} jobs differ")
        (few, least), (many, most) = min(times.items()), max(times.items())
        job_s = (most - least) / max(1, many - few)
        for jobs, spent in times.items():
            row = {"command": name, "jobs": jobs, "cpu_ms": 1000 * spent / args.images, "job_s": job_s}
            rows.append(row | {"efficiency": times[args.parts[0]] / spent})
    return rows


def cpu_seconds(*command: object) -> float:
    """Return the CPU time of a command of semiseg, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [sys.executable, "-m", "semiseg", *map(str, command)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-500:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
