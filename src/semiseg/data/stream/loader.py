"""The training stream: batches as a pure function of the seed and the step."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from semiseg.batch import Batch
from semiseg.data.dataset import Decoded, SegmentationDataset
from semiseg.data.files.string_array import as_string_array
from semiseg.data.stream.image_reader import ImageReader
from semiseg.data.stream.main_module import hidden_main_module
from semiseg.data.stream.remote_files import Unreachable
from semiseg.data.stream.unlabeled_pool import ListPool, Pool, permutation
from semiseg.data.stream.weak_view import view_area, weak_view
from semiseg.data.tag_file import UNKNOWN
from semiseg.errors import UserError
from semiseg.seeding import derive_seed


@dataclass(frozen=True)
class View:
    """A weak view of one image.

    Attributes:
        image: uint8 ``(channels, S, S)``, as ``weak_view`` returns it.
        mask: uint8 ``(S, S)``.
        valid: bool ``(S, S)``.
        area: The number of pixels of the resized image.
        tags: One tag per class.
        skipped: Why the images that this one replaces could not be read, by id.
    """

    image: Tensor
    mask: Tensor
    valid: Tensor
    area: int
    tags: tuple[int, ...]
    skipped: dict[str, str]


@dataclass(frozen=True)
class StreamConfig:
    """Options of the training stream.

    Attributes:
        batch_size: Labeled images per step, over all ranks.
        crop_size: Side of the square crops, in pixels.
        image_scale: Factor on the size of every image, before the random one.
        short_side: Shorter side to which images are resized before ``image_scale``; None: their own.
        scale_min: Smallest random scale.
        scale_max: Largest random scale.
        seed: The random seed of orders and views.
        unlabeled_batch_size: Unlabeled images per step, over all ranks; 0 for methods without unlabeled images.
        fill: Whether a teacher may label the pixels of labeled images that are 255 (partial annotation).
        strict: Whether an unreadable unlabeled image raises UserError; otherwise another image replaces it.
    """

    batch_size: int
    crop_size: int
    image_scale: float = 1.0
    short_side: int | None = None
    scale_min: float = 0.5
    scale_max: float = 2.0
    seed: int = 0
    unlabeled_batch_size: int = 0
    fill: bool = False
    strict: bool = False


class TrainStream(Dataset[Batch]):
    """The batches of a run, indexed by global step.

    An epoch visits every unlabeled image once, in an order of its own (``Pool.sample``). Its last batch is filled from
    the start of that order. Labeled images are visited in passes that do not depend on epochs, so a batch may span two
    passes. Each rank reads a contiguous shard of the global batch. Masks of unlabeled images are never opened.

    Args:
        dataset: The data.
        labeled: Ids of the labeled images.
        unlabeled: Ids of the unlabeled images, or a pool of them.
        config: The options.
        rank: The rank of this process.
        world_size: The number of processes.
        reader: Reads the images; by default at full size and without a cache.

    Raises:
        UserError: A list is empty, the batch size is not a multiple of the world size, or a file cannot be read.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        labeled: Sequence[str],
        unlabeled: Sequence[str] | Pool,
        config: StreamConfig,
        rank: int = 0,
        world_size: int = 1,
        reader: ImageReader | None = None,
    ) -> None:
        if not labeled:
            raise UserError("no labeled images", path=dataset.name, fix="annotate a few")
        if config.unlabeled_batch_size and not unlabeled:
            raise UserError(
                "this method needs unlabeled images and there are none",
                path=dataset.name,
                fix="add images without masks, lower --labeled, or choose --method supervised",
            )
        if not 0 < config.scale_min <= config.scale_max:
            problem = f"scale range {config.scale_min} to {config.scale_max} is invalid"
            raise UserError(problem, fix="give 0 < scale_min <= scale_max")
        self.dataset, self.config, self.reader = dataset, config, reader or ImageReader(dataset)
        self.labeled = as_string_array(labeled)
        self.unlabeled = unlabeled if isinstance(unlabeled, Pool) else ListPool(self.reader, unlabeled, config.seed)
        self._tagged = dataset.any_tags(self.labeled, self.unlabeled.names)
        self._labeled_shard = _shard(config.batch_size, rank, world_size)
        self._unlabeled_shard = _shard(config.unlabeled_batch_size, rank, world_size)
        if config.unlabeled_batch_size:
            self.steps_per_epoch = math.ceil(len(unlabeled) / config.unlabeled_batch_size)
        else:
            self.steps_per_epoch = math.ceil(len(labeled) / config.batch_size)

    def __getitem__(self, step: int) -> Batch:
        """Return this rank's shard of the batch of a global step."""
        return self.read(step)[0]

    def read(self, step: int) -> tuple[Batch, dict[str, str]]:
        """Return the batch of a step, and why unlabeled images that were replaced could not be read, by id."""
        labeled = [self._labeled_view(step * self.config.batch_size + index) for index in self._labeled_shard]
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        unlabeled = [self._unlabeled_view(epoch, step_in_epoch, index) for index in self._unlabeled_shard]
        side, channels = self.config.crop_size, self.dataset.pixel_format.channels
        valid = torch.stack([view.valid for view in labeled])
        masks = torch.stack([view.mask for view in labeled]).long().masked_fill_(~valid, 255)
        batch = Batch(
            labeled_images=torch.stack([view.image for view in labeled]),
            masks=masks,
            labeled_valid=valid,
            unlabeled_images=_stack([view.image for view in unlabeled], (channels, side, side), torch.uint8),
            unlabeled_valid=_stack([view.valid for view in unlabeled], (side, side), torch.bool),
            fill=(masks == 255) & valid if self.config.fill else valid[:0],
            labeled_tags=self._tags(labeled),
            unlabeled_tags=self._tags(unlabeled),
            labeled_area=torch.tensor([view.area for view in labeled]),
            unlabeled_area=torch.tensor([view.area for view in unlabeled], dtype=torch.long),
        )
        return batch, {id: why for view in unlabeled for id, why in view.skipped.items()}

    def _labeled_view(self, index: int) -> View:
        turn, position = divmod(index, len(self.labeled))
        id = self.labeled[int(permutation(len(self.labeled), self.config.seed, "labeled", turn)[position])]
        return self._view(*self.reader.sample(id), id, "labeled", turn, 0, id)

    def _unlabeled_view(self, epoch: int, step: int, index: int) -> View:
        lap, id = self.unlabeled.sample(epoch, step, index, self.config.unlabeled_batch_size)
        shown, image, skipped = self._read_or_replace(id, epoch)
        return replace(self._view(image, None, shown, "unlabeled", epoch, lap, id), skipped=skipped)

    def _read_or_replace(self, id: str, epoch: int) -> tuple[str, Decoded, dict[str, str]]:
        """Read an unlabeled image, or a replacement if it is unreadable.

        The replacement depends on seed, epoch and id alone, so it is the same for any number of workers and after a
        resume.

        Returns:
            The id of the image, the image, and why the images before it could not be read, by id.
        """
        failed: dict[str, UserError] = {}
        for candidate in chain([id], self.unlabeled.fallbacks(id, epoch)):
            try:
                image = self.unlabeled.read(candidate)
            except Unreachable:
                raise
            except UserError as error:
                if self.config.strict:
                    raise
                failed[candidate] = error
            else:
                return candidate, image, {id: str(error) for id, error in failed.items()}
        first = failed[id]
        problem = f"{first.problem}, and none of {len(failed)} unlabeled images can be read"
        raise UserError(problem, path=first.location, fix=first.fix)

    def _view(self, image: Decoded, mask: Tensor | None, id: str, *key: int | str) -> View:
        config = self.config
        seed = derive_seed(config.seed, *key)
        scale = config.image_scale * (config.short_side / min(image.size) if config.short_side else 1)
        scales = config.scale_min, config.scale_max
        view = weak_view(
            image.pixels, mask, config.crop_size, seed, scale, scales, whole=image.size, factor=image.factor
        )
        area = view_area(image.size, seed, scale, scales)
        return View(*view, area, self.dataset.tags(id) or (UNKNOWN,) * len(self.dataset.classes), {})

    def _tags(self, views: list[View]) -> Tensor:
        """Return the tags of a batch, int8 ``(B, C)``, or ``(0, 0)`` if no image of the run has tags."""
        shape = (len(views), len(self.dataset.classes)) if self._tagged else (0, 0)
        return torch.tensor([view.tags for view in views] if self._tagged else [], dtype=torch.int8).reshape(shape)


def _shard(batch_size: int, rank: int, world_size: int) -> range:
    """Return the batch indices of one rank."""
    if batch_size % world_size:
        problem = f"batch size {batch_size} does not divide among {world_size} processes"
        raise UserError(problem, option="batch-size", fix=f"choose a multiple of {world_size}")
    size = batch_size // world_size
    return range(rank * size, (rank + 1) * size)


def _stack(tensors: list[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.stack(tensors) if tensors else torch.empty((0, *shape), dtype=dtype)


class _ErrorsAsValues(Dataset["tuple[Batch, dict[str, str]] | UserError"]):
    """Returns UserError instead of raising it, because workers turn exceptions into long tracebacks."""

    def __init__(self, stream: TrainStream) -> None:
        self.stream = stream

    def __getitem__(self, step: int) -> tuple[Batch, dict[str, str]] | UserError:
        try:
            return self.stream.read(step)
        except UserError as error:
            return error


class StepLoader(DataLoader["tuple[Batch, dict[str, str]] | UserError"]):
    """A DataLoader of whole batches in the order of steps. It raises the stream's UserError in the main process.

    Attributes:
        skipped: Why unlabeled images of the batches so far could not be read, by id.
    """

    skipped: dict[str, str]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        kind = type(self.dataset.stream.dataset)  # type: ignore[attr-defined]
        with hidden_main_module(kind), _blocked_signals():
            items = super().__iter__()
        try:
            for item in items:
                if isinstance(item, UserError):
                    raise item
                batch, skipped = item
                self.skipped |= skipped
                yield batch
        finally:
            # An exception's traceback keeps the iterator alive, and the process would wait for its workers at exit.
            if isinstance(items, _MultiProcessingDataLoaderIter):
                items._shutdown_workers()


def _ignore_signals(worker: int) -> None:
    """Ignore signals in a worker: Ctrl-C and SLURM send them to all processes, and the last step needs its batch.

    The run shuts its workers down when it closes the loader. If the run dies, they exit within seconds.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Block the signals that workers ignore, so that they do not stop a worker that has not started to ignore them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]


def make_loader(
    stream: TrainStream, first_step: int, last_step: int, workers: int = 0, pin_memory: bool = False
) -> StepLoader:
    """Return a loader of the steps ``first_step`` to ``last_step - 1``. The batches do not depend on ``workers``."""
    loader = StepLoader(
        _ErrorsAsValues(stream),
        batch_size=None,  # items are batches
        sampler=range(first_step, last_step),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_signals,
        generator=torch.Generator(),  # the default would advance the global generator
    )
    loader.skipped = {}
    return loader
