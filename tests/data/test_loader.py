"""The training stream: batches as a function of seed and step, without masks of unlabeled images."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from semiseg.data import IGNORE, FolderDataset, Shapes, StreamConfig, TrainStream, make_loader, resolve_split
from semiseg.data.stream import loader as module
from semiseg.errors import UserError
from semiseg.methods.method import Batch
from semiseg.seeding import derive_seed

CONFIG = StreamConfig(batch_size=4, crop_size=32, seed=1, unlabeled_batch_size=4)


def stream(config: StreamConfig = CONFIG, labeled: str = "3", **ranks: int) -> TrainStream:
    dataset = Shapes(images=13, val=2, test=1, size=48)
    split = resolve_split(dataset, labeled, 0)
    return TrainStream(dataset, split.labeled, split.unlabeled, config, **ranks)


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def record_views(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record (purpose, id) of every view."""
    seen: list[tuple[str, str]] = []

    def recording(*parts: int | str) -> int:
        if len(parts) == 5:
            seen.append((str(parts[1]), str(parts[4])))
        return derive_seed(*parts)

    monkeypatch.setattr(module, "derive_seed", recording)
    return seen


def test_batch_shapes_and_types() -> None:
    batch = stream()[0]
    assert batch.labeled_images.shape == batch.unlabeled_images.shape == (4, 3, 32, 32)
    assert batch.masks.shape == batch.unlabeled_valid.shape == (4, 32, 32)
    kinds = [batch.labeled_images.dtype, batch.masks.dtype, batch.unlabeled_images.dtype, batch.unlabeled_valid.dtype]
    assert kinds == [torch.uint8, torch.int64, torch.uint8, torch.bool]


def test_every_epoch_visits_all_unlabeled_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = record_views(monkeypatch)
    training = stream()
    assert training.steps_per_epoch == 3  # 10 unlabeled images, 4 per step
    orders = []
    for epoch in range(3):
        seen.clear()
        for step in range(3 * epoch, 3 * epoch + 3):
            training[step]
        visited = [id for purpose, id in seen if purpose == "unlabeled"]
        assert sorted(visited[:10]) == sorted(training.unlabeled.names) and visited[10:] == visited[:2]
        orders.append(tuple(visited))
    assert len(set(orders)) == 3


def test_labeled_passes_are_contiguous(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = record_views(monkeypatch)
    training = stream(labeled="7")
    for step in range(7):
        training[step]
    visited = [id for purpose, id in seen if purpose == "labeled"]
    for start in range(0, 28, 7):
        assert sorted(visited[start : start + 7]) == sorted(training.labeled)


def test_fewer_labeled_images_than_a_batch() -> None:
    batch = stream(replace(CONFIG, batch_size=8), labeled="2")[0]
    assert batch.labeled_images.shape[0] == 8
    pairs = {tuple(image.flatten()[:50].tolist()) for image in batch.labeled_images}
    assert len(pairs) > 2  # each pass has other views


def test_masks_of_unlabeled_images_are_not_opened(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = FolderDataset(tiny_folder)
    split = resolve_split(dataset, "1/4", 0)
    for id in (*split.unlabeled, *split.val, *split.test):
        (tiny_folder / "masks" / f"{id}.png").write_bytes(b"not a mask")
    opened: list[str] = []
    read = FolderDataset.read_mask
    monkeypatch.setattr(FolderDataset, "read_mask", lambda self, id: (opened.append(id), read(self, id))[1])
    training = TrainStream(dataset, split.labeled, split.unlabeled, CONFIG)
    for step in range(2 * training.steps_per_epoch):
        training[step]
    assert set(opened) == set(split.labeled)


def test_masks_of_unlabeled_images_do_not_matter(tiny_folder: Path) -> None:
    split = resolve_split(FolderDataset(tiny_folder), "1/4", 0)
    before = TrainStream(FolderDataset(tiny_folder), split.labeled, split.unlabeled, CONFIG)[1]
    for id in split.unlabeled:
        (tiny_folder / "masks" / f"{id}.png").unlink()
    assert equal(before, TrainStream(FolderDataset(tiny_folder), split.labeled, split.unlabeled, CONFIG)[1])


def test_batch_is_function_of_step() -> None:
    training = stream()
    in_order = [training[step] for step in range(6)]
    fresh = stream()
    assert all(equal(in_order[step], fresh[step]) for step in (5, 0, 3))
    assert not equal(in_order[0], in_order[1]) and not equal(in_order[0], in_order[3])
    assert not equal(in_order[0], stream(replace(CONFIG, seed=2))[0])


def test_batches_do_not_depend_on_workers() -> None:
    state = torch.get_rng_state()
    alone = list(make_loader(stream(), 2, 7, workers=0))
    several = list(make_loader(stream(), 2, 7, workers=2))
    assert len(alone) == len(several) == 5
    assert all(equal(a, b) for a, b in zip(alone, several, strict=True))
    assert equal(alone[0], stream()[2])
    assert torch.equal(state, torch.get_rng_state())  # reading data does not advance the global generator


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_read_the_global_batch(world_size: int) -> None:
    whole = stream()
    parts = [stream(rank=rank, world_size=world_size) for rank in range(world_size)]
    for step in (0, 4):
        batches = [part[step] for part in parts]
        joined = Batch(**{name: torch.cat([getattr(b, name) for b in batches]) for name in vars(batches[0])})
        assert equal(joined, whole[step])
    assert all(part.steps_per_epoch == whole.steps_per_epoch for part in parts)


def test_stream_without_unlabeled_images() -> None:
    training = stream(replace(CONFIG, unlabeled_batch_size=0), labeled="7")
    assert training.steps_per_epoch == 2
    batch = training[0]
    assert batch.unlabeled_images.shape == (0, 3, 32, 32) and batch.unlabeled_valid.shape == (0, 32, 32)
    with_unlabeled = stream(labeled="7")[0]
    assert torch.equal(batch.labeled_images, with_unlabeled.labeled_images)


def test_repeated_unlabeled_images_get_different_views() -> None:
    dataset = Shapes(images=4, val=1, test=1, size=48)
    ids = resolve_split(dataset, "3", 0)
    assert len(ids.unlabeled) == 1
    batch = TrainStream(dataset, ids.labeled, ids.unlabeled, CONFIG)[0]
    assert len({tuple(image.flatten().tolist()) for image in batch.unlabeled_images}) == 4


def test_padding_is_marked() -> None:
    config = replace(CONFIG, crop_size=80, scale_max=1.0)
    batch = stream(config)[0]
    assert (batch.masks == IGNORE).any((1, 2)).all()
    assert (batch.masks[~batch.labeled_valid] == IGNORE).all() and not batch.labeled_valid.all((1, 2)).any()
    assert (~batch.unlabeled_valid).any((1, 2)).all() and batch.unlabeled_valid.any((1, 2)).all()
    # Masks of Shapes have no 255, so only padding is 255. It has the mean color of ImageNet.
    assert (batch.labeled_images[0].permute(1, 2, 0)[batch.masks[0] == IGNORE] == torch.tensor([124, 116, 104])).all()


def test_short_side_scales_each_image_to_the_same_side() -> None:
    assert equal(stream(replace(CONFIG, short_side=24))[0], stream(replace(CONFIG, image_scale=0.5))[0])  # images of 48


def test_invalid_stream_options_fail() -> None:
    with pytest.raises(UserError, match="multiple of 3"):
        stream(rank=0, world_size=3)
    with pytest.raises(UserError, match="scale_min"):
        stream(replace(CONFIG, scale_min=2.0, scale_max=1.0))
    with pytest.raises(UserError, match="needs unlabeled images and there are none"):
        stream(labeled="13")
    assert stream(replace(CONFIG, unlabeled_batch_size=0), labeled="13").steps_per_epoch == 4


def unreadable_stream(folder: Path, **options: bool) -> tuple[TrainStream, list[Path]]:
    """Return a stream with two unreadable unlabeled images, and their paths."""
    dataset = FolderDataset(folder)
    split = resolve_split(dataset, "1/4", 0)
    paths = [dataset.image_path(id) for id in split.unlabeled[:2]]
    paths[0].write_bytes(b"not an image")
    paths[1].unlink()
    return TrainStream(dataset, split.labeled, split.unlabeled, replace(CONFIG, **options)), paths


@pytest.mark.parametrize("workers", [0, 1])
def test_strict_fails_on_unreadable_unlabeled_image(tiny_folder: Path, workers: int) -> None:
    training, paths = unreadable_stream(tiny_folder, strict=True)
    with pytest.raises(UserError, match="cannot be read") as caught:
        list(make_loader(training, 0, training.steps_per_epoch, workers=workers))
    assert any(str(path) in str(caught.value) for path in paths) and "\n" not in str(caught.value)


def test_replacements_do_not_depend_on_workers_or_resume(tiny_folder: Path) -> None:
    training, paths = unreadable_stream(tiny_folder)
    loaders = [make_loader(training, 0, 6, workers=workers) for workers in (0, 2)]
    whole, from_workers = (list(loader) for loader in loaders)
    assert all(equal(one, other) for one, other in zip(whole, from_workers, strict=True))
    for loader in loaders:
        assert sorted(loader.skipped) == sorted(path.stem for path in paths)
        assert all(str(path) in loader.skipped[path.stem] for path in paths)
    assert all(equal(one, other) for one, other in zip(whole[4:], make_loader(training, 4, 6), strict=True))
    assert all(len(batch.unlabeled_images) == 4 and batch.unlabeled_images.float().std() > 0 for batch in whole)


def test_replacement_depends_on_image_and_epoch(tiny_folder: Path) -> None:
    training, paths = unreadable_stream(tiny_folder)
    good = set(training.unlabeled.names) - {path.stem for path in paths}
    assert training._read_or_replace(min(good), 0)[0] == min(good) and training._read_or_replace(min(good), 0)[2] == {}
    assert any(
        training._read_or_replace(paths[0].stem, e)[0] != training._read_or_replace(paths[1].stem, e)[0]
        for e in range(20)
    )


def test_no_readable_unlabeled_image_fails(tiny_folder: Path) -> None:
    training, _ = unreadable_stream(tiny_folder)
    for id in training.unlabeled.names:
        training.dataset.image_path(id).write_bytes(b"")
    with pytest.raises(UserError, match=r"png: the image cannot be read.*none of 9 unlabeled images can be read"):
        training[0]


FAULTY = """
from semiseg.data import Shapes, StreamConfig, TrainStream, make_loader

class Faulty(Shapes):
    def read_image(self, id):
        raise KeyError(id)

if __name__ == "__main__":
    ids = Faulty().ids
    stream = TrainStream(Faulty(), ids[:4], ids[4:], StreamConfig(2, crop_size=32, unlabeled_batch_size=2))
    list(make_loader(stream, 0, 4, workers=2))
"""


@pytest.mark.slow
def test_bug_in_worker_ends_the_program() -> None:
    """The traceback must not keep the workers alive, because the program would wait for them."""
    done = subprocess.run([sys.executable, "-c", FAULTY], capture_output=True, text=True, timeout=50)
    assert done.returncode == 1 and "KeyError" in done.stderr
