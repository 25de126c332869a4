"""Unlabeled images in shards: local and remote shards give the same samples in any number of processes."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import semiseg
from semiseg.data import Shapes, StreamConfig, TrainStream, make_loader, read_split, resolve_split
from semiseg.data.stream import remote_files as remote_module
from semiseg.data.stream.make_shards import make_shards
from semiseg.data.stream.remote_files import Unreachable, fetch
from semiseg.data.stream.shards import Shards, count_images, names_shards, open_shards, parse_index
from semiseg.data.stream.unlabeled_pool import WINDOW, ShardPool, disk_space_note
from semiseg.errors import UserError
from semiseg.methods import Batch
from semiseg.training.trainer import Trainer

pytest.importorskip("webdataset")

DATA = "shapes:images=6,val=2,test=1,size=48"
IMAGES, PER_SHARD = 43, 4  # eleven shards in three windows, the last one incomplete
CONFIG = StreamConfig(batch_size=4, crop_size=32, seed=3, unlabeled_batch_size=4)
OPTIONS: dict[str, Any] = {
    **{"crop_size": 48, "batch_size": 2, "encoder": "test_resnet", "weights": "none", "accelerator": "cpu", "seed": 1},
    **{"steps": 4, "val_every": 2, "val_limit": 1, "workers": 1},
}


class CountingHandler(SimpleHTTPRequestHandler):
    """Serves a folder, counts requests and logs nothing."""

    requests: Counter[str]

    def do_GET(self) -> None:
        self.requests[self.path] += 1
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    dataset = Shapes(images=IMAGES, val=1, test=1, size=48, seed=5)
    for number, id in enumerate(dataset.ids[:IMAGES]):
        Image.fromarray(dataset.read_image(id).permute(1, 2, 0).numpy()).save(folder / f"photo.{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def _shards(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "shards"
    make_shards(str(photos), folder, PER_SHARD)
    return folder


@pytest.fixture
def shards(_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eleven shards and their index, private to the test, as is the cache of copies."""
    monkeypatch.setenv("SEMISEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_module, "RETRY_WAITS", ())
    return Path(shutil.copytree(_shards, tmp_path / "shards"))


@pytest.fixture
def server(shards: Path) -> Iterator[tuple[str, Counter[str]]]:
    """The URL of the shards, and the number of requests per file."""
    handler = type("Handler", (CountingHandler,), {"requests": Counter()})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(shards))) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", handler.requests
        running.shutdown()


def stream(source: str | Path, config: StreamConfig = CONFIG, rank: int = 0, world_size: int = 1) -> TrainStream:
    dataset = Shapes(images=12, val=2, test=1, size=48)
    split = resolve_split(dataset, "4", 0, str(source))
    assert split.shards is not None and split.unlabeled == ()
    pool = ShardPool(split.shards, config.seed, config.unlabeled_batch_size // world_size)
    return TrainStream(dataset, split.labeled, pool, config, rank=rank, world_size=world_size)


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def epoch_of(pool: ShardPool, epoch: int, batch: int) -> list[list[tuple[int, str]]]:
    """Return the images of each step of an epoch."""
    return [
        [pool.sample(epoch, step, index, batch) for index in range(batch)] for step in range(-(-len(pool) // batch))
    ]


def entry(folder: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((folder / "index.json").read_text())["shardlist"]
    return entries


# Epochs.


@pytest.mark.parametrize("batch", [1, 4, 16, 50])
def test_every_epoch_visits_each_image_once(shards: Path, batch: int) -> None:
    pool = ShardPool(open_shards(str(shards)), seed=3, rank_batch_size=batch)
    assert len(pool) == IMAGES
    orders = []
    for epoch in range(2):
        sampled = [one for step in epoch_of(pool, epoch, batch) for one in step]
        first = [id for lap, id in sampled if not lap]
        assert len({*first}) == len(first) == IMAGES and all(key.startswith("shard-0000") for key in first)
        assert len(sampled) == -(-IMAGES // batch) * batch and all(lap == 1 for lap, _ in sampled if lap)
        orders.append(first)
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_batch_index_reads_windows_in_order(shards: Path) -> None:
    pool = ShardPool(open_shards(str(shards)), seed=3, rank_batch_size=1)
    steps = epoch_of(pool, 0, 2)
    for index in range(2):
        names = [step[index][1].partition(".tar/")[0] for step in steps]
        assert all(len({*names[at : at + 6]}) <= 2 * WINDOW for at in range(len(names)))
    whole = [one[0][1].partition(".tar/")[0] for one in epoch_of(pool, 0, 1)]
    windows = [whole[: WINDOW * PER_SHARD], whole[WINDOW * PER_SHARD : 2 * WINDOW * PER_SHARD]]
    for window in windows:
        assert len({*window}) <= WINDOW + 1  # windows with a small shard are shorter
        assert window[: len(window) // 2] != sorted(window[: len(window) // 2])  # shuffled across shards
    assert len({*windows[0]} & {*windows[1]}) <= 1


def test_order_is_function_of_seed_and_epoch(shards: Path) -> None:
    opened = open_shards(str(shards))
    one, other = ShardPool(opened, 3, 4), ShardPool(opened, 3, 1)
    later = one.sample(5, 7, 2, 4)
    assert epoch_of(one, 0, 4) == epoch_of(other, 0, 4) and other.sample(5, 7, 2, 4) == later
    assert epoch_of(ShardPool(opened, 4, 4), 0, 4) != epoch_of(one, 0, 4)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_read_the_global_shard_batch(shards: Path, world_size: int) -> None:
    whole = stream(shards)
    parts = [stream(shards, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 7, whole.steps_per_epoch):
        batches = [part[step] for part in parts]
        joined = Batch(**{name: torch.cat([getattr(b, name) for b in batches]) for name in vars(batches[0])})
        assert equal(joined, whole[step])


# Remote shards.


def test_remote_batches_equal_local_ones_for_any_workers(shards: Path, server: tuple[str, Counter[str]]) -> None:
    url, requests = server
    local, remote = stream(shards), stream(url)
    assert local.steps_per_epoch == 11 and open_shards(url).describe().startswith("43 images in 11 shards of http")
    whole = list(make_loader(local, 0, 13))
    for workers in (0, 2):
        batches = list(make_loader(remote, 0, 13, workers=workers))
        assert all(equal(one, other) for one, other in zip(whole, batches, strict=True))
    assert equal(stream(url)[9], whole[9])  # a single step, as after a resume
    assert all(count == 1 for path, count in requests.items() if path.endswith(".tar")) and len(requests) == 12


def test_rank_downloads_only_its_shards(shards: Path, server: tuple[str, Counter[str]]) -> None:
    url, requests = server
    half = stream(url, replace(CONFIG, unlabeled_batch_size=2), rank=0, world_size=2)
    wanted = {half.unlabeled.sample(0, step, 0, 2)[1].partition(".tar/")[0] for step in range(8)}
    for step in range(8):
        half[step]
    assert 0 < len(wanted) < 11 and {f"/{name}.tar" for name in wanted} <= requests.keys()


def test_concurrent_fetches_download_once(server: tuple[str, Counter[str]]) -> None:
    url, requests = server
    with ThreadPoolExecutor(8) as threads:
        paths = {*threads.map(fetch, [f"{url}/shard-000000.tar"] * 8)}
    assert len(paths) == 1 and requests["/shard-000000.tar"] == 1


def test_least_recently_used_copies_are_evicted(
    shards: Path, server: tuple[str, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, requests = server
    sizes = [one["filesize"] for one in entry(shards)]
    monkeypatch.setenv("SEMISEG_CACHE_GB", str(3 * max(sizes) / 1e9))
    expected = [equal(one, other) for one, other in zip(stream(shards), make_loader(stream(url), 0, 11), strict=False)]
    assert all(expected) and len(expected) == 11
    kept = list((remote_module.cache_folder()).glob("*.tar"))
    assert 0 < sum(path.stat().st_size for path in kept) <= 3 * max(sizes)
    assert sum(requests[f"/shard-{n:06d}.tar"] for n in range(11)) > 11  # evicted shards were downloaded again
    assert disk_space_note(open_shards(url), 4).startswith("warning: copies of shards: up to")


def test_small_cache_limit_disables_prefetching(
    shards: Path, server: tuple[str, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefetching would evict the shards that are read next."""
    url, _ = server
    indexed = open_shards(url)
    (shards / "index.json").unlink()
    monkeypatch.setenv("SEMISEG_CACHE_GB", str(3 * indexed.sizes.max() / 1e9))
    counted = count_images(url, [f"{url}/{name}" for name in indexed.names])
    assert [*counted.counts] == [*indexed.counts] and [*counted.sizes] == [*indexed.sizes]
    monkeypatch.setenv("SEMISEG_CACHE_GB", str(1.1 * indexed.sizes.max() / 1e9))
    pool, near = ShardPool(indexed, 3, 1), ShardPool(open_shards(str(shards)), 3, 1)
    for step in range(IMAGES):
        id = pool.sample(0, step, 0, 1)[1]
        assert id == near.sample(0, step, 0, 1)[1]
        assert torch.equal(pool.read(id).pixels, near.read(id).pixels)


def test_local_shards_do_not_depend_on_working_directory(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shards.parent / "sibling").mkdir()
    monkeypatch.chdir(shards.parent / "sibling")
    index = (shards / "index.json").read_bytes()
    for indexed in (True, False):
        if not indexed:
            (shards / "index.json").unlink()
        for source in (f"../{shards.name}", f"../{shards.name}/shard-{{000000..000001}}.tar", f"../{shards.name}/"):
            found = open_shards(source)
            assert found.base == f"{shards.resolve()}/"
            moved = parse_index("elsewhere/shards.json", json.dumps(found.to_json()).encode())
            assert (moved.base, [*moved.names]) == (found.base, [*found.names])
    escaping = json.dumps(json.loads(index) | {"base": f"{shards}/../"}).encode()
    with pytest.raises(UserError, match=r"contains \.\."):
        parse_index("index.json", escaping)


@pytest.mark.slow
def test_resumed_run_on_remote_shards_is_exact(
    shards: Path, server: tuple[str, Counter[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = server
    broken = ShardPool(open_shards(str(shards)), OPTIONS["seed"], 2).sample(0, 1, 0, 2)[1]  # in the second step
    damage(shards, broken)
    options = OPTIONS | {"labeled": "4", "unlabeled": url}
    whole = semiseg.train(DATA, "mean-teacher", tmp_path / "whole", **options)
    step = Trainer.step

    def killed(self: Trainer, batch: Batch, progress: Any) -> Any:
        if progress.step == 3:
            raise MemoryError
        return step(self, batch, progress)

    monkeypatch.setattr("semiseg.workflows.train.report", lambda runs: None)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Trainer, "step", killed)
        semiseg.train(DATA, "mean-teacher", tmp_path / "run", **options)
    semiseg.train(resume=tmp_path / "run")
    for name in ("last.pt", "best.pt"):
        assert (tmp_path / "run" / "checkpoints" / name).read_bytes() == (whole / "checkpoints" / name).read_bytes()
    for run in (tmp_path / "run", whole):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["skipped"] for line in lines if "skipped" in line] == [broken]
    assert_run_records_shards(whole, url)
    with pytest.raises(UserError, match="suggest does not read them"):
        semiseg.suggest(whole, out=tmp_path / "suggested")
    reused = resolve_split(Shapes(images=6, val=2, test=1, size=48), str(whole / "splits" / "labeled.txt"), 0)
    assert len(reused.labeled) == 4 and len(reused.unlabeled) == 2  # the comment in unlabeled.txt is not used as a list


def assert_run_records_shards(run: Path, url: str) -> None:
    """Check that the lists, configuration, log and report of a run mention its shards."""
    assert (run / "splits" / "unlabeled.txt").read_text() == f"# 43 images in 11 shards of {url}: see shards.json\n"
    assert f"unlabeled: {url}" in (run / "config.yaml").read_text()
    log = (run / "log.txt").read_text()
    assert "4 labeled, 43 unlabeled, 2 val" in log and "copies of shards: up to" in log
    assert "43 unlabeled" in (run / "report.html").read_text()
    assert len(list((run / "samples" / "pseudo-labels").glob("*/image.png"))) >= 2  # of three, one may be damaged
    again = read_split(run / "splits")
    assert again.shards is not None and again.shards.base == url + "/" and again.unlabeled_count == IMAGES


# Errors.


def damage(folder: Path, id: str) -> None:
    """Overwrite an image in a shard with as many invalid bytes."""
    name, _, key = id.partition("/")
    content = bytearray((folder / name).read_bytes())
    with tarfile.open(folder / name) as tar:
        member = tar.getmember(f"{key}.png")
    content[member.offset_data : member.offset_data + member.size] = b"x" * member.size
    (folder / name).write_bytes(content)


def test_unreadable_image_is_replaced_from_its_shard(shards: Path) -> None:
    training = stream(shards)
    broken = training.unlabeled.sample(0, 5, 1, 4)[1]
    damage(shards, broken)
    loaders = [make_loader(training, 0, 11, workers=workers) for workers in (0, 2)]
    batches = [list(loader) for loader in loaders]
    assert all(equal(one, other) for one, other in zip(*batches, strict=True))
    name, _, key = broken.partition("/")
    for loader in loaders:
        assert [*loader.skipped] == [broken]
        assert f"{shards}/{name}: {key}: the image cannot be read" in loader.skipped[broken]
    fallbacks = list(training.unlabeled.fallbacks(broken, 0))
    assert len(fallbacks) == 3 and all(id.startswith(f"{name}/") for id in fallbacks)
    for id in fallbacks:
        damage(shards, id)
    with pytest.raises(UserError, match=f"{name}: {key}: the image cannot be read.*and none of 4 unlabeled images"):
        training[5]


def cut_short(folder: Path) -> None:
    path = folder / "shard-000003.tar"
    path.write_bytes(path.read_bytes()[:6000])


def compressed(folder: Path) -> None:
    with tarfile.open(folder / "shard-000000.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())


def another_count(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text())
    index["shardlist"][3]["nsamples"] = 5
    (folder / "index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        (cut_short, "shard-000003.tar: not a plain tar file, or damaged"),
        (compressed, "shard-000000.tar: not a plain tar file"),
        (another_count, "shard-000003.tar: it holds 4 images, but the index says 5. Create the index again"),
        (lambda folder: (folder / "shard-000005.tar").unlink(), "shard-000005.tar: no such file"),
    ],
)
def test_damaged_shard_fails_in_one_line(shards: Path, fault: Callable[[Path], None], pattern: str) -> None:
    fault(shards)
    with pytest.raises(Unreachable, match=pattern) as caught:
        list(make_loader(stream(shards), 0, 11))
    assert "\n" not in str(caught.value)


def test_invalid_shard_source_fails_in_one_line(shards: Path, server: tuple[str, Counter[str]], tmp_path: Path) -> None:
    url, _ = server
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("[1]")
    (tmp_path / "away.json").write_text('{"shardlist": [{"url": "../a.tar", "nsamples": 1}]}')
    (shards / "ours.json").write_text('{"shardlist": [{"url": "/etc/a.tar", "nsamples": 1}]}')
    (tmp_path / "half.json").write_text('{"shardlist": [{"url": "a.tar", "nsamples": 0.5}]}')
    (shards / "index.json").unlink()
    for source, pattern in (
        ("http://127.0.0.1:9/photos", "127.0.0.1:9/photos/index.json: cannot be read .*Check the address"),
        (f"{url}/none", "/none: no such file or folder. Check the address"),
        (url, f"11 shards without index.json, .* semiseg prepare shards --from '{url}' --out"),
        (str(tmp_path / "empty"), "empty: no index.json and no .tar files there"),
        (str(tmp_path / "broken.json"), "broken.json: not an index of shards"),
        (str(tmp_path / "away.json"), "away.json: not an index of shards .*contains .."),
        (f"{url}/ours.json", "ours.json: not an index of shards .*names local files"),
        (str(tmp_path / "half.json"), "half.json: not an index of shards .*not an integer"),
        (str(tmp_path / "none.tar"), "none.tar: no such file"),
        ("gopher://somewhere/photos", "gopher://somewhere/photos/index.json: cannot be read .*gopher"),
    ):
        with pytest.raises(UserError, match=pattern) as caught:
            open_shards(source)
        assert "\n" not in str(caught.value)


def test_missing_remote_shard_fails_in_one_line(shards: Path, server: tuple[str, Counter[str]]) -> None:
    url, _ = server
    training = stream(url)
    for path in shards.glob("*.tar"):
        path.unlink()
    with pytest.raises(Unreachable, match=r"shard-0000\d\d.tar: no such file or folder. Check the address"):
        training[0]


def test_changed_remote_shard_fails(shards: Path, server: tuple[str, Counter[str]]) -> None:
    url, _ = server
    training = stream(url)
    for path in shards.glob("*.tar"):
        path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(Unreachable, match=r"it has \d+ bytes, but the index says \d+. Create the index again"):
        training[0]


@pytest.mark.parametrize("size", ["none", "0", "-1", "nan"])
def test_invalid_cache_limit_fails(
    size: str, server: tuple[str, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMISEG_CACHE_GB", size)
    with pytest.raises(UserError, match=r"SEMISEG_CACHE_GB is .*Set it to a number"):
        fetch(f"{server[0]}/shard-000000.tar")


# Making and finding shards.


def test_packing_is_exact_and_deterministic(photos: Path, shards: Path, tmp_path: Path) -> None:
    members = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            members |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert members == {path.name.replace(".", "_", 1): path.read_bytes() for path in photos.iterdir()}
    make_shards(str(photos), tmp_path / "again", PER_SHARD)
    for path in shards.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    with pytest.raises(UserError, match="again: exists and is not empty"):
        make_shards(str(photos), tmp_path / "again")
    for number in (1, 2, 3):
        make_shards(str(photos), tmp_path / f"part-{number}", PER_SHARD, f"{number}/3")
    written = {path.name: path.read_bytes() for path in tmp_path.glob("part-*/*.tar")}
    assert written == {path.name: path.read_bytes() for path in shards.glob("*.tar")}
    assert len(list(tmp_path.glob("part-*/*.tar"))) == len(written)
    with pytest.raises(UserError, match="part: applies to a folder of images only"):
        make_shards(str(shards), tmp_path / "index", part="1/2")


def test_index_of_existing_shards(shards: Path, server: tuple[str, Counter[str]], tmp_path: Path) -> None:
    url, _ = server
    expected = open_shards(str(shards)).to_json()["shardlist"]
    (shards / "index.json").unlink()
    for number, source in enumerate((url, url + "/shard-{000000..000010}.tar", str(shards))):
        lines = make_shards(source, tmp_path / str(number))
        assert lines[0].endswith("43 images in 11 shards")
        found = open_shards(str(tmp_path / str(number)))
        assert found.to_json()["shardlist"] == expected and [p.name for p in (tmp_path / str(number)).iterdir()] == [
            "index.json"
        ]
    assert open_shards(str(shards)).to_json()["shardlist"] == expected  # local shards need no index
    assert open_shards(str(shards / "shard-000001.tar")).names[0] == "shard-000001.tar"


def test_image_of_a_key_has_no_second_ending(tmp_path: Path, photos: Path) -> None:
    picture = next(photos.iterdir()).read_bytes()
    names = ("a.json", "a.mask.png", "a.png", "b/c.JPG", "b/c.cls", ".hidden.png", "d.txt", "e.v2.jpg")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(picture)
            tar.addfile(info, io.BytesIO(picture))
        link = tarfile.TarInfo("f.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    shards = open_shards(str(tmp_path / "a.tar"))
    assert isinstance(shards, Shards) and list(shards.members(0)[1]) == ["a", "b/c"]
    assert ShardPool(shards, 0, 1).read("a.tar/b/c").pixels.shape == (3, 48, 48)


def test_list_files_are_not_shards(tmp_path: Path) -> None:
    (tmp_path / "list{1}.txt").write_text("")
    assert not names_shards(str(tmp_path / "list{1}.txt")) and not names_shards("lists/unlabeled.txt")
    assert names_shards("s3://bucket/photos") and names_shards(str(tmp_path)) and names_shards("a-{0..3}.tar")
