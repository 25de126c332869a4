"""Costs of unlabeled images in shards: sampling by the size of the pool, and reading compared with files.

    python benchmarks/shards.py [--images 2000] [--most 1000000] [--json FILE]

First table: open an index of shards of a thousand tiny images (hard links to a few tar files), and sample and read a
hundred batches of eight, in a separate process; time and growth of the peak memory. Second table: one epoch through the
loader with two workers, from a directory, from shards on the disk, and from a local HTTP server that is downloaded
during the epoch.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import tempfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from separate_process import make_parser, measured, write_linked

PER_SHARD = 1000
BATCH = 8


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--images", type=int, default=2000, help="images of the second table")
    parser.add_argument("--most", type=int, default=1_000_000, help="shards of the largest pool of the first table")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SEMISEG_CACHE"] = f"{scratch}/cache"
        pools = [pool_of(Path(scratch), shards) for shards in (1000, args.most)]
        print(f"{'images':>16}{'open, s':>10}{'100 batches, s':>16}{'MB':>8}")
        for row in pools:
            print(f"{row['images']:>16,}{row['open_s']:>10.1f}{row['batches_s']:>16.1f}{row['megabytes']:>8.0f}")
        reads = reading(Path(scratch) / "read", args.images)
        print(f"\n{'from':>16}{'images/s':>10}{'of the folder':>16}")
        for row in reads:
            print(f"{row['from']:>16}{row['images_per_s']:>10.0f}{row['ratio']:>16.2f}")
    if args.json:
        args.json.write_text(json.dumps({"pools": pools, "reading": reads}, indent=1) + "\n")


def pool_of(scratch: Path, shards: int) -> dict[str, float]:
    """Generate a pool and measure it in a separate process."""
    folder = scratch / str(shards)
    folder.mkdir()
    content, names = tiny_shard(), [f"shard-{number:07d}.tar" for number in range(shards)]
    write_linked((folder / name for name in names), content)
    entries = [{"url": name, "nsamples": PER_SHARD, "filesize": len(content)} for name in names]
    (folder / "index.json").write_text(json.dumps({"shardlist": entries}))
    return measured(__file__, folder)


def tiny_shard() -> bytes:
    """Return a shard of a thousand images."""
    import tarfile

    from PIL import Image

    picture, shard = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (16, 16), (90, 120, 60)).save(picture, "JPEG")
    with tarfile.open(fileobj=shard, mode="w") as tar:
        for number in range(PER_SHARD):
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(picture.getvalue())
            tar.addfile(member, io.BytesIO(picture.getvalue()))
    return shard.getvalue()


def measure(folder: Path) -> dict[str, float]:
    """Open a pool, and sample and read a hundred batches."""
    from semiseg.data.stream.shards import open_shards
    from semiseg.data.stream.unlabeled_pool import ShardPool

    before, start = peak(), time.perf_counter()
    pool = ShardPool(open_shards(str(folder)), seed=0, rank_batch_size=BATCH)
    opened = time.perf_counter()
    for step in range(100):
        for place in range(BATCH):
            pool.read(pool.sample(0, step, place, BATCH)[1])
    done = time.perf_counter()
    seconds = {"open_s": opened - start, "batches_s": done - opened}
    return {"images": len(pool)} | seconds | {"megabytes": peak() - before}


def peak() -> float:
    """Return the peak resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "linux" else 1024) / 1000


def reading(folder: Path, images: int) -> list[dict[str, Any]]:
    """Load an epoch from a directory, from shards and from a server."""
    from semiseg.data import FolderDataset, StreamConfig, TrainStream, make_loader, resolve_split, write_folder
    from semiseg.data.generated_shapes import Shapes
    from semiseg.data.stream.image_reader import ImageReader
    from semiseg.data.stream.make_shards import make_shards
    from semiseg.data.stream.unlabeled_pool import make_pool

    write_folder(Shapes(images=images, val=2, test=1, size=128), folder / "data")
    make_shards(str(folder / "data" / "images"), folder / "shards", max(1, images // 20))
    dataset = FolderDataset(folder / "data")
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    speeds: dict[str, float] = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder / "shards"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sources = {
            "warm-up": None,
            "folder": None,
            "shards": str(folder / "shards"),
            "HTTP": f"http://127.0.0.1:{server.server_port}",
        }
        for name, source in sources.items():
            split = resolve_split(dataset, "8", 0, source)
            config = StreamConfig(batch_size=1, crop_size=64, unlabeled_batch_size=BATCH)
            stream = TrainStream(dataset, split.labeled, make_pool(ImageReader(dataset), split, 0, BATCH), config)
            start = time.perf_counter()
            steps = sum(1 for _ in make_loader(stream, 0, stream.steps_per_epoch, workers=2))
            speeds[name] = steps * BATCH / (time.perf_counter() - start)
        server.shutdown()
    return [
        {"from": name, "images_per_s": speed, "ratio": speed / speeds["folder"]}
        for name, speed in speeds.items()
        if name != "warm-up"
    ]


if __name__ == "__main__":
    main()
