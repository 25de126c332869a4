"""The cache of decoded images: bit-identical samples despite changed sources, damaged files and a full disk."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import semiseg
from semiseg.config import TrainConfig
from semiseg.data import FolderDataset, Shapes, StreamConfig, TrainStream, make_loader, resolve_split
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.stream.decoded_cache import DecodedCache
from semiseg.data.stream.image_reader import ImageReader
from semiseg.errors import UserError
from semiseg.methods.method import Batch
from semiseg.training.decode_plan import make_reader

CONFIG = StreamConfig(batch_size=2, crop_size=32, unlabeled_batch_size=4)
Disk = namedtuple("Disk", "total used free")


def stream(folder: Path, cache: DecodedCache | None, factor: int = 1) -> TrainStream:
    dataset = FolderDataset(folder)
    split = resolve_split(dataset, "1/4", 0)
    return TrainStream(dataset, split.labeled, split.unlabeled, CONFIG, reader=ImageReader(dataset, factor, cache))


def batches(training: TrainStream, workers: int = 0) -> list[Batch]:
    return list(make_loader(training, 0, 5, workers))


def equal(ours: list[Batch], theirs: list[Batch]) -> bool:
    return all(torch.equal(vars(a)[name], vars(b)[name]) for a, b in zip(ours, theirs, strict=True) for name in vars(a))


def cached(cache: Path) -> list[Path]:
    return sorted(path for path in cache.glob("??/*") if path.is_file())


@pytest.mark.parametrize("factor", [1, 2])
def test_cached_batches_equal_uncached_ones_for_any_workers(tiny_folder: Path, tmp_path: Path, factor: int) -> None:
    without = batches(stream(tiny_folder, None, factor))
    cache = DecodedCache(tmp_path / "cache")
    training = stream(tiny_folder, cache, factor)
    for workers in (2, 0, 1):  # the first run fills the cache
        assert equal(batches(training, workers), without)
    assert len(cached(cache.folder)) == len(training.labeled) + len(training.unlabeled.names)


def test_cached_images_are_not_decoded_again(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = batches(stream(tiny_folder, DecodedCache(tmp_path)))
    monkeypatch.setattr(FolderDataset, "read_image", lambda self, id: pytest.fail("decoded"))
    assert equal(batches(stream(tiny_folder, DecodedCache(tmp_path))), whole)


def test_changed_images_are_decoded_again_and_removed_ones_fail(tiny_folder: Path, tmp_path: Path) -> None:
    before = batches(stream(tiny_folder, DecodedCache(tmp_path)))
    training = stream(tiny_folder, DecodedCache(tmp_path))
    paths = [training.dataset.image_path(id) for id in training.unlabeled.names]
    assert all(paths)
    for path in paths:
        Image.new("RGB", (48, 48), (200, 30, 30)).save(path)
        os.utime(path, ns=(1, 1))  # older than the cached image, as a restored backup
    after = batches(stream(tiny_folder, DecodedCache(tmp_path)))
    assert equal(after, batches(stream(tiny_folder, None))) and not equal(after, before)
    for path in paths:
        path.unlink()
    with pytest.raises(UserError, match="none of 9 unlabeled images can be read"):
        training[0]


def test_damaged_cache_files_are_replaced(tiny_folder: Path, tmp_path: Path) -> None:
    whole = batches(stream(tiny_folder, DecodedCache(tmp_path)))
    files = cached(tmp_path)
    right = [file.read_bytes() for file in files]
    for file, content, cut in zip(files, right, range(len(files)), strict=True):
        file.write_bytes((b"", content[:20], content[:-1], bytes(len(content)))[cut % 4])
    assert equal(batches(stream(tiny_folder, DecodedCache(tmp_path))), whole)
    assert [file.read_bytes() for file in files] == right


def test_killed_writer_leaves_only_a_draft(tiny_folder: Path, tmp_path: Path) -> None:
    def die(number: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def fill() -> None:
        os.fsync = die  # after writing, before renaming
        stream(tiny_folder, DecodedCache(tmp_path))[0]

    process = multiprocessing.get_context("fork").Process(target=fill)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (draft,) = (tmp_path / "drafts").iterdir()
    assert not cached(tmp_path)
    assert equal(batches(stream(tiny_folder, DecodedCache(tmp_path))), batches(stream(tiny_folder, None)))
    assert draft.exists()  # another process may still be writing it
    os.utime(draft, (time.time() - 7200,) * 2)
    DecodedCache(tmp_path)
    assert not draft.exists()


def test_full_disk_warns_once_and_loading_continues(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**12, 10**12, 10**9))
    cache = DecodedCache(tmp_path)
    assert equal(batches(stream(tiny_folder, cache), workers=1), batches(stream(tiny_folder, None)))
    err = capfd.readouterr().err
    assert err.count("caching stops") == 1 and str(tmp_path) in err and not cached(tmp_path)
    monkeypatch.undo()
    batches(stream(tiny_folder, cache))
    assert not cached(tmp_path)  # the flag set by the worker reached the main process


def reader(dataset: SegmentationDataset, **options: str) -> tuple[ImageReader, list[str]]:
    config = replace(TrainConfig(method="mean-teacher"), **options)
    return make_reader(config, dataset, resolve_split(dataset, "1/4", 0))


def test_cache_is_disabled_if_disk_space_is_short(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, folder = FolderDataset(tiny_folder), str(tmp_path / "cache")
    needed = 12 * (48 + 3 * 48 * 48)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**12, 0, 10**9 + needed))
    made, (note,) = reader(dataset, cache=folder)
    assert made.cache is not None and note == f"cache: about 83.5 kB more in {folder}, 1.0 GB free"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(10**12, 0, 10**9 + needed - 1))
    made, (note,) = reader(dataset, cache=folder)
    assert made.cache is None and note.startswith("warning: cache: about 83.5 kB") and "Training without cache" in note
    for id in dataset.ids:
        ImageReader(dataset, 1, DecodedCache(Path(folder))).image(id)
    assert "about 0 bytes more" in reader(dataset, cache=folder)[1][0]


def test_cache_folder_defaults_and_errors(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made, _ = reader(FolderDataset(tiny_folder), cache="auto")
    assert made.cache is not None and made.cache.folder == tmp_path / "semiseg" / "decoded"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: cannot be written .*choose another --cache"):
        reader(FolderDataset(tiny_folder), cache=str(tmp_path / "file"))
    made, (note,) = reader(Shapes(images=8, val=1, test=1, size=48), cache="auto")
    assert made.cache is None and "are not files" in note
    assert reader(FolderDataset(tiny_folder))[1] == []


@pytest.mark.slow
def test_run_with_cache_equals_run_without(tiny_folder: Path, tmp_path: Path) -> None:
    small = {"encoder": "test_resnet", "weights": "none", "crop_size": 48, "batch_size": 2, "labeled": "1/4"}
    states = []
    for name, options in {"without": {}, "with": {"cache": str(tmp_path / "cache")}}.items():
        out = tmp_path / name
        semiseg.train(tiny_folder, "mean-teacher", out, steps=1, val_every="never", workers=1, **small, **options)
        states.append(torch.load(out / "checkpoints" / "last.pt", weights_only=True)["method"])
    assert "cache: about" in (tmp_path / "with" / "log.txt").read_text()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]) and cached(tmp_path / "cache")
