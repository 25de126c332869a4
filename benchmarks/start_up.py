"""Seconds until each command has started: to the end of an import, the first training step, the first mask.

    python benchmarks/start_up.py [--other OTHER/src] [--rounds 5] [--json FILE]

Each measurement is a new process with the files in the disk cache. The revisions take turns; the table shows the
least time, since other programs can only add to it, and its ratio to ``import torch``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve()
DATA = "shapes:images=60,val=4,test=4,size=128"
SEMISEG = "import sys; from semiseg.cli import main; sys.exit(main())"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="the src directory of another revision")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    sources = {"this revision": HERE.parents[1] / "src"} | ({"other": args.other} if args.other else {})
    with tempfile.TemporaryDirectory() as scratch:
        rows = measure({name: source.resolve() for name, source in sources.items()}, Path(scratch), args.rounds)
    torch = min(rows["import torch"].values())
    print("| start of | " + " | ".join(f"{name} | / import torch" for name in sources) + " |")
    print("|---" * (1 + 2 * len(sources)) + "|")
    for command, times in rows.items():
        cells = (f"{times[name]:.2f} s | {times[name] / torch:.2f}" for name in sources)
        print(f"| {command} | {' | '.join(cells)} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measure(sources: dict[str, Path], scratch: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Return the least seconds of every command and revision."""
    photograph = scratch / "photograph.jpg"
    Image.effect_mandelbrot((640, 480), (-2, -1.2, 0.8, 1.2), 100).convert("RGB").save(photograph)
    rows: dict[str, dict[str, float]] = {}
    for turn in range(rounds + 1):  # the first round fills the disk cache
        for name, source in sources.items():
            run, masks = scratch / f"run-{turn}-{name}", scratch / f"masks-{turn}-{name}"
            train = ["train", "--data", DATA, "--labeled", "12", "--steps", "1", "--accelerator", "cpu", "--out", run]
            train += ["--crop-size", "128", "--batch-size", "4"]
            predict = ["predict", run, photograph, "--accelerator", "cpu", "--out", masks]
            commands = {
                "import torch": (["-c", "import torch"], None),
                "import semiseg": (["-c", "import semiseg"], None),
                "semiseg train, to the first step": (["-c", SEMISEG, *train], "step 1/1"),
                "semiseg predict, one photograph": (["-c", SEMISEG, *predict], None),
            }
            for command, (arguments, line) in commands.items():
                took = seconds(source, [str(argument) for argument in arguments], line)
                if turn:
                    known = rows.setdefault(command, {}).get(name, took)
                    rows[command][name] = min(known, took)
    return rows


def seconds(source: Path, arguments: list[str], line: str | None) -> float:
    """Return the seconds until Python has run, or has printed a line that starts with ``line``."""
    environment = os.environ | {"PYTHONPATH": str(source)}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    printed, output = None, []
    for text in process.stdout:
        output.append(text)
        if line and text.startswith(line):
            printed = time.perf_counter() - start
    if process.wait():
        raise SystemExit("".join(output))
    if line and printed is None:
        raise SystemExit(f"'{line}' is missing in:\n{''.join(output)}")
    return printed or time.perf_counter() - start


if __name__ == "__main__":
    main()
