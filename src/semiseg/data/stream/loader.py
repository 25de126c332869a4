"""The training stream: step -> batch, a function of the seed and the step alone."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator, Sequence
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
from semiseg.data.stream.remote_files import Unreachable
from semiseg.data.stream.unlabeled_pool import ListPool, Pool, permutation
from semiseg.data.stream.weak_view import view_area, weak_view
from semiseg.data.tag_file import UNKNOWN
from semiseg.errors import UserError
from semiseg.seeding import derive_seed


@dataclass(frozen=True)
class View:
    """A weak view: image, mask and valid as ``weak_view`` returns them, the area of the whole image, its tags.

    ``skipped`` says by id why images could not be read that should have been shown.
    """

    image: Tensor
    mask: Tensor
    valid: Tensor
    area: int
    tags: tuple[int, ...]
    skipped: dict[str, str]


@dataclass(frozen=True)
class StreamConfig:
    """How batches are made.

    Attributes:
        batch_size: labeled images a step, over all processes together.
        crop_size: side of the square crops, in pixels.
        image_scale: factor on the size of every image, before the random one.
        scale_min: least random scale.
        scale_max: greatest random scale.
        seed: of order and views.
        unlabeled_batch_size: unlabeled images a step, over all processes together; 0 for methods without them.
        fill: whether 255 inside a labeled image means that a teacher may label it (annotation in part), or that nobody
            should (full annotation).
        strict: whether an unlabeled image that cannot be read is an error; otherwise another stands in for it.
    """

    batch_size: int
    crop_size: int
    image_scale: float = 1.0
    scale_min: float = 0.5
    scale_max: float = 2.0
    seed: int = 0
    unlabeled_batch_size: int = 0
    fill: bool = False
    strict: bool = False


class TrainStream(Dataset[Batch]):
    """The batches of a run, by global step.

    Unlabeled images: an epoch is one pass over all of them, in an order of its own (``Pool.draw``); what its last batch
    lacks is taken from the start of that order. Labeled images: pass after pass without regard to epochs, so that a
    batch may span two. Of each global batch a process gets a contiguous part. No mask of an unlabeled image is opened.

    Raises:
        UserError: a list is empty, a batch does not divide among the processes, or a file is at fault.
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
            raise UserError(f"{dataset.name}: no labeled images; annotate a few")
        if config.unlabeled_batch_size and not unlabeled:
            raise UserError(
                f"{dataset.name}: this method needs unlabeled images and there are none; add images without masks, "
                "lower --labeled, or take --method supervised"
            )
        if not 0 < config.scale_min <= config.scale_max:
            raise UserError(f"scale range {config.scale_min} to {config.scale_max}: give 0 < scale_min <= scale_max")
        self.dataset, self.config, self.reader = dataset, config, reader or ImageReader(dataset)
        self.labeled = as_string_array(labeled)
        self.unlabeled: Pool = (
            unlabeled if isinstance(unlabeled, Pool) else ListPool(self.reader, unlabeled, config.seed)
        )
        self._tagged = dataset.any_tags(self.labeled, self.unlabeled.names)
        self._labeled_part = _part(config.batch_size, rank, world_size)
        self._unlabeled_part = _part(config.unlabeled_batch_size, rank, world_size)
        if config.unlabeled_batch_size:
            self.steps_per_epoch = math.ceil(len(unlabeled) / config.unlabeled_batch_size)
        else:
            self.steps_per_epoch = math.ceil(len(labeled) / config.batch_size)

    def __getitem__(self, step: int) -> Batch:
        """Return this process's part of the batch of a global step."""
        return self.read(step)[0]

    def read(self, step: int) -> tuple[Batch, dict[str, str]]:
        """Return the same, and by id why unlabeled images of it could not be read, for which others stand in."""
        labeled = [self._labeled_view(step * self.config.batch_size + place) for place in self._labeled_part]
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        unlabeled = [self._unlabeled_view(epoch, step_in_epoch, place) for place in self._unlabeled_part]
        side = self.config.crop_size
        valid = torch.stack([view.valid for view in labeled])
        masks = torch.stack([view.mask for view in labeled]).long().masked_fill_(~valid, 255)
        batch = Batch(
            labeled_images=torch.stack([view.image for view in labeled]),
            masks=masks,
            labeled_valid=valid,
            unlabeled_images=_stack([view.image for view in unlabeled], (3, side, side), torch.uint8),
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

    def _unlabeled_view(self, epoch: int, step: int, place: int) -> View:
        lap, id = self.unlabeled.sample(epoch, step, place, self.config.unlabeled_batch_size)
        shown, image, skipped = self._readable(id, epoch)
        return replace(self._view(image, None, shown, "unlabeled", epoch, lap, id), skipped=skipped)

    def _readable(self, id: str, epoch: int) -> tuple[str, Decoded, dict[str, str]]:
        """Return an unlabeled image's id and pixels, or those of the one that stands in for it; why others could not.

        Which one that is depends on seed, epoch and id alone, so that any number of workers and a resumed run agree.
        """
        skipped: dict[str, str] = {}
        for candidate in chain([id], self.unlabeled.fallbacks(id, epoch)):
            try:
                return candidate, self.unlabeled.read(candidate), skipped
            except Unreachable:
                raise
            except UserError as error:
                if self.config.strict:
                    raise
                skipped[candidate] = str(error)
        raise UserError(f"{skipped[id]}; none of {len(skipped)} unlabeled images can be read")

    def _view(self, image: Decoded, mask: Tensor | None, id: str, *key: int | str) -> View:
        config = self.config
        seed = derive_seed(config.seed, *key)
        scales = config.scale_min, config.scale_max
        shape = config.crop_size, seed, config.image_scale, scales
        view = weak_view(image.pixels, mask, *shape, whole=image.size, factor=image.factor)
        area = view_area(image.size, seed, config.image_scale, scales)
        return View(*view, area, self.dataset.tags(id) or (UNKNOWN,) * len(self.dataset.classes), {})

    def _tags(self, views: list[View]) -> Tensor:
        """The tags of a part of the batch, int8 ``(B, C)``, or ``(0, 0)`` where no image of the run has any."""
        shape = (len(views), len(self.dataset.classes)) if self._tagged else (0, 0)
        return torch.tensor([view.tags for view in views] if self._tagged else [], dtype=torch.int8).reshape(shape)


def _part(batch: int, rank: int, world_size: int) -> range:
    if batch % world_size:
        raise UserError(
            f"batch size {batch} does not divide among {world_size} processes; make --batch-size a multiple of "
            f"{world_size}"
        )
    share = batch // world_size
    return range(rank * share, (rank + 1) * share)


def _stack(tensors: list[Tensor], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.stack(tensors) if tensors else torch.empty((0, *shape), dtype=dtype)


class _Reported(Dataset["tuple[Batch, dict[str, str]] | UserError"]):
    """The stream with UserError as a value: a worker process would wrap an exception into a page of traceback."""

    def __init__(self, stream: TrainStream) -> None:
        self.stream = stream

    def __getitem__(self, step: int) -> tuple[Batch, dict[str, str]] | UserError:
        try:
            return self.stream.read(step)
        except UserError as error:
            return error


class StepLoader(DataLoader["tuple[Batch, dict[str, str]] | UserError"]):
    """A DataLoader of whole batches, in the order of steps, that raises the stream's UserError in the main process.

    Attributes:
        skipped: by id, why unlabeled images of the batches handed on so far could not be read.
    """

    skipped: dict[str, str]

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        items = super().__iter__()
        try:
            for item in items:
                if isinstance(item, UserError):
                    raise item
                batch, skipped = item
                self.skipped |= skipped
                yield batch
        finally:
            # Where a fault of ours goes up, its traceback keeps the workers, and the program's end would wait for them.
            if isinstance(items, _MultiProcessingDataLoaderIter):
                items._shutdown_workers()


def _leave_signals_to_the_run(worker: int) -> None:
    """Ignore what asks a run to end: Ctrl-C and SLURM tell all its processes, and its last step needs its batch.

    A worker ends when the run closes its loader, and within seconds of the run's own death.
    """
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def make_loader(
    stream: TrainStream, first_step: int, last_step: int, workers: int = 0, pin_memory: bool = False
) -> StepLoader:
    """Return a loader of the batches of steps ``first_step`` to ``last_step - 1``, alike for any number of workers."""
    loader = StepLoader(
        _Reported(stream),
        batch_size=None,  # an item is a batch
        sampler=range(first_step, last_step),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_the_run,
        generator=torch.Generator(),  # otherwise iterating draws a number from the global generator
    )
    loader.skipped = {}
    return loader
