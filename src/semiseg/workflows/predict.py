"""Predict with a trained model: a mask for every image of files, directories and shards."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semiseg.config import TrainConfig
from semiseg.data.stream.shards import Shards, holds_shards, open_shards
from semiseg.errors import UserError
from semiseg.inference.mask_writer import PredictionRenderer
from semiseg.inference.predict_files import Task, collect_images, make_folder, plan_files, predict_files
from semiseg.inference.predict_shards import plan_shards, predict_shard
from semiseg.tools.models.trained_model import load
from semiseg.training.distributed.external_launcher import adopt_launcher, find_launcher, world_size

if TYPE_CHECKING:
    from semiseg.training.distributed.process_group import ProcessGroup

RESUME_HINT = "Resume with the same command and --skip-existing"


def predict(
    path: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    network: str | None = None,
    checkpoint: str = "best",
    overlay: bool = False,
    confidence: bool = False,
    sliding: bool = False,
    skip_existing: bool = False,
    accelerator: str = "auto",
    devices: int | str = "auto",
) -> list[Path]:
    """Write ``OUT/<stem>.png``, an indexed mask with palette at the image's size, for every image; return the masks.

    For shards, write ``OUT/<name>.tar`` with ``<key>.png`` for every image, and return the tar files. Each file is
    written completely or not at all. If one of several images cannot be read, print its name, predict all others, and
    raise the error at the end.

    Args:
        path: A run or a checkpoint.
        images: Image files and directories of image files; or shards, as a directory or a URL.
        out: A directory. Existing files are not overwritten.
        network: The network to use, such as ``student``. Default: the method's own choice.
        checkpoint: ``best`` or ``last``.
        overlay: Also write ``OUT/<stem>_overlay.png`` (in shards ``<key>.overlay.png``).
        confidence: Also write ``OUT/<stem>_confidence.png`` (in shards ``<key>.confidence.png``): gray, 255 is certain.
        sliding: Use a sliding window of the training's crop size.
        skip_existing: Skip files that exist instead of raising an error.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: Number of processes that split the images; ``auto``: one, or those that torchrun has started.

    Raises:
        UserError: No image is found, two images have the same stem, a file exists, or images cannot be read.
    """
    sources = [str(images)] if isinstance(images, (str, Path)) else [str(source) for source in images]
    kinds = ["", *(["_overlay"] if overlay else []), *(["_confidence"] if confidence else [])]
    launch_options: Any = {"accelerator": accelerator, "devices": devices}
    config = adopt_launcher(TrainConfig(**launch_options))
    model = (path, network, checkpoint, accelerator)
    arguments = (config, model, "slide" if sliding else "whole", kinds, sources, Path(out), skip_existing)
    if world_size(config) == 1 or find_launcher():
        return predict_rank(*arguments)
    from semiseg.training.distributed.launch import launch

    written: list[Path] = launch(predict_rank, arguments, world_size(config), 1, lambda: RESUME_HINT)
    return written


def predict_rank(
    config: TrainConfig,
    model: tuple[str | Path, str | None, str, str],
    mode: str,
    kinds: list[str],
    sources: list[str],
    out: Path,
    skip_existing: bool,
) -> list[Path]:
    """Predict this rank's share of the images and return the masks of all ranks.

    Args:
        config: Accelerator and devices.
        model: The arguments of `load`: run, network, checkpoint, accelerator.
        mode: ``whole`` or ``slide``.
        kinds: Pictures to write.
        sources: What contains the images.
        out: The output directory.
        skip_existing: Whether to skip files that exist.
    """
    from semiseg.training.distributed.fabric_setup import launched
    from semiseg.training.distributed.process_group import process_group

    with launched(config) as fabric, process_group(fabric, lambda: RESUME_HINT) as group:
        trained = group.on_all_ranks(lambda: load(*model))
        predictor = group.on_all_ranks(lambda: trained.make_predictor(trained.network, mode))
        renderer = PredictionRenderer(predictor, trained.palette, kinds)
        are_shards = group.from_rank_zero(lambda: any(map(holds_shards, sources)))
        predict_sources = predict_shards if are_shards else predict_images
        written = predict_sources(group, renderer, sources, out, skip_existing)
        group.barrier()
        return written


def predict_images(
    group: ProcessGroup, renderer: PredictionRenderer, sources: list[str], out: Path, skip_existing: bool
) -> list[Path]:
    """Predict image files and directories of image files; return the masks."""

    def plan() -> tuple[int, list[Task]]:
        found = collect_images(sources)
        tasks = plan_files(found, renderer.kinds, out, skip_existing)
        make_folder(out)
        return len(found), tasks

    count, tasks = group.from_rank_zero(plan)
    readable = group.map(lambda share: predict_files(renderer, share, skip_unreadable=count > 1), tasks)
    if failed := readable.count(False):
        group.fail(unreadable(failed, count, out, "repair or remove them, and run it again with --skip-existing"))
    return [files[""] for _, files in tasks if "" in files]


def predict_shards(
    group: ProcessGroup, renderer: PredictionRenderer, sources: list[str], out: Path, skip_existing: bool
) -> list[Path]:
    """Predict the images of shards; return the shards of masks."""

    def plan() -> tuple[Shards, list[int]]:
        if len(sources) > 1:
            raise UserError("shards must come from one source", path=sources[0], fix="predict each source separately")
        shards = open_shards(sources[0])
        todo = plan_shards(shards, out, skip_existing)
        make_folder(out)
        return shards, todo

    shards, todo = group.from_rank_zero(plan)
    results = group.map(lambda share: (predict_shard(renderer, shards, number, out) for number in share), todo)
    if failed := sum(count for count, _ in results):
        fix = "repair the shards, delete the masks of those with damaged images, and run it again with --skip-existing"
        group.fail(unreadable(failed, len(shards), out, fix))
    return [file for _, file in results if file]


def unreadable(failed: int, count: int, out: Path, fix: str) -> UserError:
    """Return the error about images that cannot be read."""
    return UserError(f"{failed} of {count} images cannot be read, see above, and have no mask in {out}", fix=fix)
