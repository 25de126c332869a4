"""What a large pool costs: from the folder to the first batches, with a hundred unlabeled files and with a million.

    python benchmarks/pool.py [--files 1000000] [--json FILE]

Generates both folders (hard links to a few photographs), then in a process of its own opens the data, makes and checks
the lists, writes them, reads them back as a run does, and takes ten batches with two workers. Wall-clock time, and the
memory that belongs to the process and its workers (PSS: what they share counts once), from /proc: Linux only.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LABELED = 12
LINKS = 30_000  # of one file: file systems allow some 65,000
WORKERS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000, help="unlabeled images of the large pool")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for files in (100, args.files):
            data = generate(Path(scratch) / str(files), files)
            command = [sys.executable, __file__, "--measure", data]
            rows.append(
                {"files": files} | json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            )
    print(f"{'unlabeled files':>16}{'s':>8}{'MB':>8}")
    for row in rows:
        print(f"{row['files']:>16,}{row['seconds']:>8.1f}{row['megabytes']:>8.0f}")
    more = {key: rows[1][key] - rows[0][key] for key in ("seconds", "megabytes")}
    print(f"{'more':>16}{more['seconds']:>8.1f}{more['megabytes']:>8.0f}")
    if args.json:
        args.json.write_text(json.dumps({"rows": rows, "more": more}, indent=1) + "\n")


def generate(root: Path, files: int) -> Path:
    """Make an own folder with ``files`` unlabeled images and a few labeled ones."""
    from PIL import Image

    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    photo, mask = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 60)).save(photo, "JPEG")
    Image.new("L", (64, 64), 1).save(mask, "PNG")
    source = root
    for index in range(files + LABELED):
        path = root / "images" / f"photo_{index:08d}.jpg"
        if index % LINKS:
            os.link(source, path)
        else:
            source = path
            path.write_bytes(photo.getvalue())
    for index in range(LABELED):
        (root / "masks" / f"photo_{index:08d}.png").write_bytes(mask.getvalue())
    (root / "classes.txt").write_text("ground\nplant\n")
    return root


def measure(data: Path) -> dict[str, float]:
    """Go from the folder to ten batches."""
    from semiseg.data import open_dataset
    from semiseg.data.loaders import StreamConfig, TrainStream, make_loader
    from semiseg.data.splits import read_split, resolve_split, write_split

    before, start = memory(), time.perf_counter()
    dataset = open_dataset(data)
    write_split(resolve_split(dataset, None, 0), data / "run")
    split = read_split(data / "run", dataset)
    config = StreamConfig(batch_size=4, crop_size=48, unlabeled_batch_size=4)
    stream = TrainStream(dataset, split.labeled, split.unlabeled, config)
    for number, _ in enumerate(make_loader(stream, 0, 12, WORKERS)):
        if number == 9:
            return {"seconds": time.perf_counter() - start, "megabytes": memory() - before}
    raise AssertionError("there are twelve batches")


def memory() -> float:
    """Return the megabytes of this process and its children."""
    this = os.getpid()
    children = Path(f"/proc/{this}/task/{this}/children").read_text().split()
    lines = [line for pid in (this, *children) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


if __name__ == "__main__":
    main()
