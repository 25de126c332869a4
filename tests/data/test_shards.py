"""Unlabeled images in shards: the same samples from the disk and from an HTTP server, in one process and in several."""

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
IMAGES, PER_SHARD = 43, 4  # eleven shards: three windows, the last one small
CONFIG = StreamConfig(batch_size=4, crop_size=32, seed=3, unlabeled_batch_size=4)
OPTIONS: dict[str, Any] = {
    **{"crop_size": 48, "batch_size": 2, "encoder": "test_resnet", "weights": "none", "accelerator": "cpu", "seed": 1},
    **{"steps": 4, "val_every": 2, "val_limit": 1, "workers": 1},
}


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, says nothing and counts."""

    asked: Counter[str]

    def do_GET(self) -> None:
        self.asked[self.path] += 1
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
    """Eleven shards and their index, to be changed freely; copies go into a folder of the test's own."""
    monkeypatch.setenv("SEMISEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_module, "WAITS", ())
    return Path(shutil.copytree(_shards, tmp_path / "shards"))


@pytest.fixture
def server(shards: Path) -> Iterator[tuple[str, Counter[str]]]:
    """The URL of the shards, and how often each file was asked for."""
    handler = type("Handler", (Quiet,), {"asked": Counter()})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(shards))) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", handler.asked
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
    """What each step of an epoch draws."""
    return [
        [pool.sample(epoch, step, place, batch) for place in range(batch)] for step in range(-(-len(pool) // batch))
    ]


def entry(folder: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((folder / "index.json").read_text())["shardlist"]
    return entries


# What an epoch is.


@pytest.mark.parametrize("batch", [1, 4, 16, 50])
def test_every_image_is_visited_once_an_epoch_and_what_the_last_batch_lacks_comes_from_its_start(
    shards: Path, batch: int
) -> None:
    pool = ShardPool(open_shards(str(shards)), seed=3, rank_batch_size=batch)
    assert len(pool) == IMAGES
    orders = []
    for epoch in range(2):
        drawn = [one for step in epoch_of(pool, epoch, batch) for one in step]
        first = [id for lap, id in drawn if not lap]
        assert len({*first}) == len(first) == IMAGES and all(key.startswith("shard-0000") for key in first)
        assert len(drawn) == -(-IMAGES // batch) * batch and all(lap == 1 for lap, _ in drawn if lap)
        orders.append(first)
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_a_place_of_the_batch_reads_few_shards_at_a_time_one_window_after_the_other(shards: Path) -> None:
    pool = ShardPool(open_shards(str(shards)), seed=3, rank_batch_size=1)
    steps = epoch_of(pool, 0, 2)
    for place in range(2):
        names = [step[place][1].partition(".tar/")[0] for step in steps]
        assert all(len({*names[at : at + 6]}) <= 2 * WINDOW for at in range(len(names)))
    whole = [one[0][1].partition(".tar/")[0] for one in epoch_of(pool, 0, 1)]
    windows = [whole[: WINDOW * PER_SHARD], whole[WINDOW * PER_SHARD : 2 * WINDOW * PER_SHARD]]
    for window in windows:
        assert len({*window}) <= WINDOW + 1  # a small shard makes a window small
        assert window[: len(window) // 2] != sorted(window[: len(window) // 2])  # shuffled, not shard after shard
    assert len({*windows[0]} & {*windows[1]}) <= 1


def test_seed_and_epoch_alone_decide(shards: Path) -> None:
    opened = open_shards(str(shards))
    one, other = ShardPool(opened, 3, 4), ShardPool(opened, 3, 1)
    later = one.sample(5, 7, 2, 4)
    assert epoch_of(one, 0, 4) == epoch_of(other, 0, 4) and other.sample(5, 7, 2, 4) == later
    assert epoch_of(ShardPool(opened, 4, 4), 0, 4) != epoch_of(one, 0, 4)


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_processes_together_see_the_batch_of_one(shards: Path, world_size: int) -> None:
    whole = stream(shards)
    parts = [stream(shards, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 7, whole.steps_per_epoch):
        batches = [part[step] for part in parts]
        joined = Batch(**{name: torch.cat([getattr(b, name) for b in batches]) for name in vars(batches[0])})
        assert equal(joined, whole[step])


# From a server.


def test_the_samples_are_the_same_from_a_server_with_any_workers_and_step_by_step(
    shards: Path, server: tuple[str, Counter[str]]
) -> None:
    url, asked = server
    local, remote = stream(shards), stream(url)
    assert local.steps_per_epoch == 11 and open_shards(url).describe().startswith("43 images in 11 shards of http")
    whole = list(make_loader(local, 0, 13))
    for workers in (0, 2):
        batches = list(make_loader(remote, 0, 13, workers=workers))
        assert all(equal(one, other) for one, other in zip(whole, batches, strict=True))
    assert equal(stream(url)[9], whole[9])  # alone, as after a resume
    assert all(count == 1 for path, count in asked.items() if path.endswith(".tar")) and len(asked) == 12


def test_a_process_asks_for_the_shards_of_its_places_alone(shards: Path, server: tuple[str, Counter[str]]) -> None:
    url, asked = server
    half = stream(url, replace(CONFIG, unlabeled_batch_size=2), rank=0, world_size=2)
    wanted = {half.unlabeled.sample(0, step, 0, 2)[1].partition(".tar/")[0] for step in range(8)}
    for step in range(8):
        half[step]
    assert 0 < len(wanted) < 11 and {f"/{name}.tar" for name in wanted} <= asked.keys()


def test_a_shard_is_got_once_however_many_ask_at_once(server: tuple[str, Counter[str]]) -> None:
    url, asked = server
    with ThreadPoolExecutor(8) as threads:
        paths = {*threads.map(fetch, [f"{url}/shard-000000.tar"] * 8)}
    assert len(paths) == 1 and asked["/shard-000000.tar"] == 1


def test_what_was_not_asked_for_longest_makes_room(
    shards: Path, server: tuple[str, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = server
    sizes = [one["filesize"] for one in entry(shards)]
    monkeypatch.setenv("SEMISEG_CACHE_GB", str(3 * max(sizes) / 1e9))
    expected = [equal(one, other) for one, other in zip(stream(shards), make_loader(stream(url), 0, 11), strict=False)]
    assert all(expected) and len(expected) == 11
    kept = list((remote_module.cache_folder()).glob("*.tar"))
    assert 0 < sum(path.stat().st_size for path in kept) <= 3 * max(sizes)
    assert sum(asked[f"/shard-{n:06d}.tar"] for n in range(11)) > 11  # what had to go was got again
    assert disk_space_note(open_shards(url), 4).startswith("warning: copies of shards: up to")


def test_shards_that_hardly_fit_are_counted_and_read(
    shards: Path, server: tuple[str, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is got in advance then: it would push out what is about to be read."""
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


def test_where_local_shards_lie_does_not_depend_on_where_one_is(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shards.parent / "beside").mkdir()
    monkeypatch.chdir(shards.parent / "beside")
    index = (shards / "index.json").read_bytes()
    for there in (True, False):
        if not there:
            (shards / "index.json").unlink()
        for source in (f"../{shards.name}", f"../{shards.name}/shard-{{000000..000001}}.tar", f"../{shards.name}/"):
            found = open_shards(source)
            assert found.base == f"{shards.resolve()}/"
            kept = parse_index("elsewhere/shards.json", json.dumps(found.to_json()).encode())
            assert (kept.base, [*kept.names]) == (found.base, [*found.names])
    strange = json.dumps(json.loads(index) | {"base": f"{shards}/../"}).encode()
    with pytest.raises(UserError, match=r"has \.\. in it"):
        parse_index("index.json", strange)


def test_a_run_from_a_server_that_is_killed_and_resumed_is_the_uninterrupted_one(
    shards: Path, server: tuple[str, Counter[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = server
    broken = ShardPool(open_shards(str(shards)), OPTIONS["seed"], 2).sample(0, 1, 0, 2)[1]  # of the second step
    spoil(shards, broken)
    options = OPTIONS | {"labeled": "4", "unlabeled": url}
    whole = semiseg.train(DATA, "mean-teacher", tmp_path / "whole", **options)
    step = Trainer.step

    def killed(self: Trainer, batch: Batch, progress: Any) -> Any:
        if progress.step == 3:
            raise MemoryError
        return step(self, batch, progress)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Trainer, "step", killed)
        semiseg.train(DATA, "mean-teacher", tmp_path / "run", **options)
    semiseg.train(resume=tmp_path / "run")
    for name in ("last.pt", "best.pt"):
        assert (tmp_path / "run" / "checkpoints" / name).read_bytes() == (whole / "checkpoints" / name).read_bytes()
    for run in (tmp_path / "run", whole):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [line["skipped"] for line in lines if "skipped" in line] == [broken]
    explains_itself(whole, url)
    with pytest.raises(UserError, match="the run's shards are not looked into"):
        semiseg.suggest(whole, out=tmp_path / "suggested")
    beside = resolve_split(Shapes(images=6, val=2, test=1, size=48), str(whole / "splits" / "labeled.txt"), 0)
    assert len(beside.labeled) == 4 and len(beside.unlabeled) == 2  # the note in place of the list is taken for none


def explains_itself(run: Path, url: str) -> None:
    """Look for what a run says of its shards, to people and to those who read its lists."""
    assert (run / "splits" / "unlabeled.txt").read_text() == f"# 43 images in 11 shards of {url}: see shards.json\n"
    assert f"unlabeled: {url}" in (run / "config.yaml").read_text()
    log = (run / "log.txt").read_text()
    assert "4 labeled, 43 unlabeled, 2 val" in log and "copies of shards: up to" in log
    assert "43 unlabeled" in (run / "report.html").read_text()
    assert len(list((run / "samples" / "pseudo-labels").glob("*/image.png"))) >= 2  # the broken one may be among them
    again = read_split(run / "splits")
    assert again.shards is not None and again.shards.base == url + "/" and again.unlabeled_count == IMAGES


# What is wrong is told.


def spoil(folder: Path, id: str) -> None:
    """Put into a shard, in place of an image, as many bytes that are none."""
    name, _, key = id.partition("/")
    content = bytearray((folder / name).read_bytes())
    with tarfile.open(folder / name) as tar:
        member = tar.getmember(f"{key}.png")
    content[member.offset_data : member.offset_data + member.size] = b"x" * member.size
    (folder / name).write_bytes(content)


def test_a_broken_image_is_told_and_another_of_its_shard_stands_in(shards: Path) -> None:
    training = stream(shards)
    broken = training.unlabeled.sample(0, 5, 1, 4)[1]
    spoil(shards, broken)
    loaders = [make_loader(training, 0, 11, workers=workers) for workers in (0, 2)]
    batches = [list(loader) for loader in loaders]
    assert all(equal(one, other) for one, other in zip(*batches, strict=True))
    name, _, key = broken.partition("/")
    for loader in loaders:
        assert [*loader.skipped] == [broken]
        assert f"{shards}/{name}: {key}: the image cannot be read" in loader.skipped[broken]
    stand_ins = list(training.unlabeled.fallbacks(broken, 0))
    assert len(stand_ins) == 3 and all(id.startswith(f"{name}/") for id in stand_ins)
    for id in stand_ins:
        spoil(shards, id)
    with pytest.raises(UserError, match=f"{name}: {key}: the image cannot be read.*; none of 4 unlabeled images"):
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
        (cut_short, "shard-000003.tar: no plain tar file, or a damaged one"),
        (compressed, "shard-000000.tar: no plain tar file"),
        (another_count, "shard-000003.tar: it holds 4 images, 5 by the index: make it anew"),
        (lambda folder: (folder / "shard-000005.tar").unlink(), "shard-000005.tar: no such file"),
    ],
)
def test_a_damaged_shard_ends_a_run_in_one_line(shards: Path, fault: Callable[[Path], None], pattern: str) -> None:
    fault(shards)
    with pytest.raises(Unreachable, match=pattern) as caught:
        list(make_loader(stream(shards), 0, 11))
    assert "\n" not in str(caught.value)


def test_what_is_no_place_of_shards_is_refused_in_one_line(
    shards: Path, server: tuple[str, Counter[str]], tmp_path: Path
) -> None:
    url, _ = server
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("[1]")
    (tmp_path / "away.json").write_text('{"shardlist": [{"url": "../a.tar", "nsamples": 1}]}')
    (shards / "ours.json").write_text('{"shardlist": [{"url": "/etc/a.tar", "nsamples": 1}]}')
    (tmp_path / "half.json").write_text('{"shardlist": [{"url": "a.tar", "nsamples": 0.5}]}')
    (shards / "index.json").unlink()
    for source, pattern in (
        ("http://127.0.0.1:9/photos", "127.0.0.1:9/photos/index.json: cannot be read .*check the address"),
        (f"{url}/none", "/none: no such file or folder: check the address"),
        (url, f"no index.json there says how many .* of 11 shards.* semiseg prepare shards --from '{url}' --out"),
        (str(tmp_path / "empty"), "empty: no index.json and no .tar files there"),
        (str(tmp_path / "broken.json"), "broken.json: no index of shards"),
        (str(tmp_path / "away.json"), "away.json: no index of shards .*has .. in it"),
        (f"{url}/ours.json", "ours.json: no index of shards .*names files of this machine"),
        (str(tmp_path / "half.json"), "half.json: no index of shards .*no whole number"),
        (str(tmp_path / "none.tar"), "none.tar: no such file"),
        ("gopher://somewhere/photos", "gopher://somewhere/photos/index.json: cannot be read .*gopher"),
    ):
        with pytest.raises(UserError, match=pattern) as caught:
            open_shards(source)
        assert "\n" not in str(caught.value)


def test_a_server_that_has_gone_ends_a_run_in_one_line(shards: Path, server: tuple[str, Counter[str]]) -> None:
    url, _ = server
    training = stream(url)
    for path in shards.glob("*.tar"):
        path.unlink()
    with pytest.raises(Unreachable, match=r"shard-0000\d\d.tar: no such file or folder: check the address"):
        training[0]


def test_a_file_that_changed_on_the_server_is_told(shards: Path, server: tuple[str, Counter[str]]) -> None:
    url, _ = server
    training = stream(url)
    for path in shards.glob("*.tar"):
        path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(Unreachable, match=r"it has \d+ bytes, \d+ by the index: make the index anew"):
        training[0]


@pytest.mark.parametrize("size", ["none", "0", "-1", "nan"])
def test_a_cache_of_no_size_is_refused(
    size: str, server: tuple[str, Counter[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMISEG_CACHE_GB", size)
    with pytest.raises(UserError, match=r"SEMISEG_CACHE_GB is .*: it must be a number"):
        fetch(f"{server[0]}/shard-000000.tar")


# Made, and found.


def test_photographs_are_packed_byte_for_byte_and_the_same_each_time(
    photos: Path, shards: Path, tmp_path: Path
) -> None:
    packed = {}
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            packed |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert packed == {path.name.replace(".", "_", 1): path.read_bytes() for path in photos.iterdir()}
    make_shards(str(photos), tmp_path / "again", PER_SHARD)
    for path in shards.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    with pytest.raises(UserError, match="again exists: nothing is overwritten"):
        make_shards(str(photos), tmp_path / "again")


def test_shards_that_lie_elsewhere_get_an_index(shards: Path, server: tuple[str, Counter[str]], tmp_path: Path) -> None:
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
    assert open_shards(str(shards)).to_json()["shardlist"] == expected  # on this machine none is needed
    assert open_shards(str(shards / "shard-000001.tar")).names[0] == "shard-000001.tar"


def test_of_the_files_of_one_key_the_image_is_the_one_without_another_ending(tmp_path: Path, photos: Path) -> None:
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


def test_a_list_in_a_file_is_still_a_list(tmp_path: Path) -> None:
    (tmp_path / "list{1}.txt").write_text("")
    assert not names_shards(str(tmp_path / "list{1}.txt")) and not names_shards("lists/unlabeled.txt")
    assert names_shards("s3://bucket/photos") and names_shards(str(tmp_path)) and names_shards("a-{0..3}.tar")
