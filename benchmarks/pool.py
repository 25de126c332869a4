"""Costs of a large unlabeled pool: start of a run with a hundred and with a million unlabeled files.

    python benchmarks/pool.py [--files 1000000] [--json FILE]

Generates both directories with hard links to a few photographs and measures in separate processes:

- *data*: open the data, create, write and read the lists like a resumed run, load ten batches with two workers
- *train*: `semiseg train` for two steps of a small network, with validation and report

Prints wall time, CPU time (more reliable on a busy machine) and memory: for *data* the PSS of the process and its
workers at the end, for *train* the peak of the main process. Linux only.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from separate_process import make_parser, measured, write_linked

LABELED = 12
WORKERS = 2
PARTS = ("data", "train")
UNITS = ("s", "CPU s", "MB")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--files", type=int, default=1_000_000, help="unlabeled images of the large pool")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for files in (100, args.files):
            data = generate(Path(scratch) / str(files), files)
            rows.append({"files": files, "data": measured(__file__, data), "train": train(data)})
    print(f"{'unlabeled files':>16}" + "".join(f"{f'{part} {unit}':>14}" for part in PARTS for unit in UNITS))
    for row in rows:
        print(f"{row['files']:>16,}" + "".join(f"{row[part][unit]:>14.1f}" for part in PARTS for unit in UNITS))
    more = {part: {unit: rows[1][part][unit] - rows[0][part][unit] for unit in UNITS} for part in PARTS}
    print(f"{'more':>16}" + "".join(f"{more[part][unit]:>14.1f}" for part in PARTS for unit in UNITS))
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "more": more}, indent=1) + "\n")


def generate(root: Path, files: int) -> Path:
    """Create a data directory with ``files`` unlabeled images and a few labeled ones."""
    from PIL import Image

    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    photo, mask = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 60)).save(photo, "JPEG")
    Image.new("L", (64, 64), 1).save(mask, "PNG")
    write_linked((root / "images" / f"photo_{index:08d}.jpg" for index in range(files + LABELED)), photo.getvalue())
    for index in range(LABELED):
        (root / "masks" / f"photo_{index:08d}.png").write_bytes(mask.getvalue())
    (root / "classes.txt").write_text("ground\nplant\n")
    return root


def measure(data: Path) -> dict[str, float]:
    """Open the directory and load ten batches."""
    from semiseg.data import open_dataset
    from semiseg.data.splits.dataset_split import read_split, resolve_split, write_split
    from semiseg.data.stream.loader import StreamConfig, TrainStream, make_loader

    before, start, cpu = memory(), time.perf_counter(), time.process_time()
    dataset = open_dataset(data)
    write_split(resolve_split(dataset, None, 0), data / "run")
    split = read_split(data / "run", dataset)
    config = StreamConfig(batch_size=4, crop_size=48, unlabeled_batch_size=4)
    stream = TrainStream(dataset, split.labeled, split.unlabeled, config)
    for number, _ in enumerate(make_loader(stream, 0, 12, WORKERS)):
        if number == 9:
            passed, worked = time.perf_counter() - start, time.process_time() - cpu
            return {"s": passed, "CPU s": worked, "MB": memory() - before}
    raise AssertionError("there are twelve batches")


def train(data: Path) -> dict[str, float]:
    """Train for two steps, from the command line."""
    command = [sys.executable, "-m", "semiseg.cli", "train", "--data", data, "--out", data / "trained"]
    for option in ("steps=2", "encoder=test_resnet", "weights=none", "crop-size=48", "batch-size=2"):
        command.append(f"--{option}")
    start, silent = time.perf_counter(), subprocess.DEVNULL
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # more threads do not help with small tensors
    process = subprocess.Popen(command, stdout=silent, stderr=silent, env=one_thread)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"semiseg train ended with {process.returncode}")
    return {"s": time.perf_counter() - start, "CPU s": used.ru_utime + used.ru_stime, "MB": used.ru_maxrss / 1000}


def memory() -> float:
    """Return the PSS of this process and its children in MB."""
    this = os.getpid()
    children = Path(f"/proc/{this}/task/{this}/children").read_text().split()
    lines = [line for pid in (this, *children) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


if __name__ == "__main__":
    main()
