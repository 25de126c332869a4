"""A large pool of unlabeled images is opened once per run and kept in compact memory."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

import semiseg
from semiseg.data import FolderDataset, StreamConfig, TrainStream, read_split, resolve_split, write_split
from semiseg.data.files.string_array import StringArray
from semiseg.errors import UserError

FILES = 3000


@pytest.fixture
def pool(tiny_folder: Path) -> Path:
    """The tiny folder with ``FILES`` more links to one of its images."""
    image = next((tiny_folder / "images").iterdir())
    (tiny_folder / "splits" / "train.txt").unlink()
    for index in range(FILES):
        os.link(image, tiny_folder / "images" / f"more_{index:08d}{image.suffix}")
    return tiny_folder


def test_workers_receive_20_bytes_per_image(pool: Path) -> None:
    dataset = FolderDataset(pool)
    split = resolve_split(dataset, "1/1000", 0)
    assert isinstance(dataset.ids, StringArray) and isinstance(split.unlabeled, StringArray)
    assert len(split.unlabeled) > FILES and set(split.unlabeled) < set(dataset.ids)
    stream = TrainStream(dataset, split.labeled, split.unlabeled, StreamConfig(2, 32, unlabeled_batch_size=2))
    assert stream.unlabeled.names is split.unlabeled
    assert len(pickle.dumps(stream)) < 70 * len(dataset)  # data set and list; a path takes more than 100


def test_split_of_large_pool_reads_back(pool: Path, tmp_path: Path) -> None:
    dataset = FolderDataset(pool)
    split = resolve_split(dataset, "1/1000", 0)
    write_split(split, tmp_path / "lists")
    read = read_split(tmp_path / "lists", dataset)
    assert (read.labeled, read.unlabeled, read.val) == (split.labeled, split.unlabeled, split.val)
    gone = split.unlabeled[7]
    dataset.images[gone].unlink()
    with pytest.raises(UserError, match=f"{gone}.*is not an image of"):
        read_split(tmp_path / "lists", FolderDataset(pool))
    lines = tmp_path / "lists" / "val.txt"
    lines.write_text(2 * lines.read_text())
    with pytest.raises(UserError, match="is listed twice"):
        read_split(tmp_path / "lists", dataset)


@pytest.mark.slow
def test_run_opens_its_data_once(pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    find = FolderDataset._find_files
    monkeypatch.setattr(FolderDataset, "_find_files", lambda self: (opened.append(self.root), find(self))[1])
    small = {"encoder": "test_resnet", "weights": "none", "crop_size": 48, "batch_size": 2}
    options = {"steps": 1, "workers": 0, "val_every": "never"}
    run = semiseg.train(pool, "supervised", tmp_path / "run", **small, **options)
    assert opened == [pool] and (run / "report.html").exists()
