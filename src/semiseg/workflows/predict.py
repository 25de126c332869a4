"""Predict with a trained model: a mask for every image of files, directories and shards."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semiseg.config import DeprecatedOption, TrainConfig
from semiseg.data.stream.shards import Shards, holds_shards, open_shards
from semiseg.errors import UserError, lookup
from semiseg.inference.bounded_predictor import MODES, BoundedPredictor
from semiseg.inference.files.collected_results import COLLECTED, PHOTOGRAPHS, complete_folder, write_collected
from semiseg.inference.files.find_images import FoundImages, find_images
from semiseg.inference.files.predict_files import Task, make_folder, plan_files, predict_files, require_new
from semiseg.inference.files.predict_shards import plan_shards, predict_shard
from semiseg.inference.formats.coco_results import require_pycocotools
from semiseg.inference.formats.geotiff import require_rasterio
from semiseg.inference.formats.prediction_writer import (
    CONFIDENCE,
    GEOJSON,
    LABELME,
    MASK,
    OVERLAY,
    PROBABILITIES,
    YOLO,
    PredictionWriter,
)
from semiseg.option_ranges import AT_LEAST_ONE, FRACTION, range_error, read_part
from semiseg.tools.models.trained_model import load
from semiseg.training.distributed.external_launcher import adopt_launcher, find_launcher, world_size

if TYPE_CHECKING:
    from semiseg.training.distributed.process_group import ProcessGroup

FORMATS: dict[str, Callable[[], None]] = {
    "png": lambda: None,
    "probabilities": lambda: None,
    "coco": require_pycocotools,
    "geojson": lambda: require_rasterio("the format geojson"),
    "label-studio": lambda: None,
    "labelme": lambda: None,
    "yolo": lambda: None,
}
"""The values of ``--format``, each with a check of the extra that it needs."""
RESUME_HINT = "Resume with the same command and --skip-existing"


@dataclass(frozen=True)
class PredictOptions:
    """Options of a prediction, see `predict`."""

    mode: str
    window: int | None
    kinds: tuple[str, ...]
    format: str
    min_confidence: float
    skip_existing: bool
    part: slice


def predict(
    path: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    network: str | None = None,
    checkpoint: str = "best",
    format: str = "png",
    min_confidence: float = 0.0,
    overlay: bool = False,
    confidence: bool = False,
    mode: str = "auto",
    window: int | None = None,
    sliding: bool = False,
    skip_existing: bool = False,
    part: str = "1/1",
    accelerator: str = "auto",
    devices: int | str = "auto",
) -> list[Path]:
    """Write ``OUT/<name>.png``, an indexed mask with palette at the image's size, for every image; return the masks.

    ``<name>`` is the path below the given directory without suffix, see `find_images`. The mask of a GeoTIFF is
    ``OUT/<name>.tif`` with the same georeference (extra ``geo``). For shards, write ``OUT/<name>.tar`` with
    ``<key>.png`` for every image, and return the tar files. Each file is written completely or not at all. If one of
    several images cannot be read, print its name, predict all others, and raise the error at the end.

    Args:
        path: A run or a checkpoint.
        images: Image files and directories of images, with subdirectories; or shards, as a directory or a URL.
        out: A directory. Existing files are not overwritten.
        network: The network to use, such as ``student``. Default: the method's own choice.
        checkpoint: ``best`` or ``last``.
        format: What to write besides the masks: nothing (``png``); ``probabilities``, as float16 ``(C, H, W)`` in
            ``OUT/probabilities/<name>.npy``, for a GeoTIFF as float32 bands; ``geojson``, polygons in
            ``OUT/geojson/<name>.geojson``; ``coco``, ``OUT/coco.json``; ``label-studio``, ``OUT/label-studio.json``;
            ``labelme`` or ``yolo``, polygons and links to the images in ``OUT/labelme`` or ``OUT/yolo``.
        min_confidence: Pixels below this probability become 255 in the mask.
        overlay: Also write ``OUT/overlays/<name>.png`` with a legend (in shards ``<key>.overlay.png``).
        confidence: Also write ``OUT/confidence/<name>.png`` (in shards ``<key>.confidence.png``): gray, 255 is certain.
        mode: ``whole`` predicts each image at once, ``slide`` in overlapping windows, and ``auto`` in windows if the
            image does not fit into memory.
        window: The side of the windows, in pixels of the resized image. Default: the training's crop size; if ``auto``
            chooses windows, up to 1024.
        sliding: Deprecated: pass ``mode="slide"``.
        skip_existing: Skip files that exist instead of raising an error.
        part: ``I/N`` predicts part I of N of the images or shards, for N jobs that do not communicate.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: Number of processes that split the images; ``auto``: one, or those that torchrun has started.

    Raises:
        UserError: No image is found, a file exists, an extra is missing, or images cannot be read.
    """
    if sliding:
        warnings.warn("--sliding is deprecated. Pass --mode slide.", DeprecatedOption, stacklevel=2)
        mode = "slide"
    lookup("mode", mode, dict.fromkeys(MODES))
    if window is not None and window < 1:
        raise range_error("window", window, AT_LEAST_ONE)
    if min_confidence not in FRACTION:
        raise range_error("min-confidence", min_confidence, FRACTION)
    lookup("format", format, FORMATS)()
    extra = (format,) if format in (PROBABILITIES, GEOJSON, LABELME, YOLO) else ()
    kinds = (MASK, *([OVERLAY] if overlay else []), *([CONFIDENCE] if confidence else []), *extra)
    if part != "1/1" and (format in COLLECTED or format in PHOTOGRAPHS):
        problem = f"{format} writes files about all images"
        raise UserError(problem, option="part", fix="leave --part out, or choose another --format")
    options = PredictOptions(mode, window, kinds, format, min_confidence, skip_existing, read_part(part))
    sources = [str(images)] if isinstance(images, (str, Path)) else [str(source) for source in images]
    launch_options: Any = {"accelerator": accelerator, "devices": devices}
    config = adopt_launcher(TrainConfig(**launch_options))
    arguments = (config, (path, network, checkpoint, accelerator), options, sources, Path(out))
    if world_size(config) == 1 or find_launcher():
        return predict_rank(*arguments)
    from semiseg.training.distributed.launch import launch

    written: list[Path] = launch(predict_rank, arguments, world_size(config), 1, lambda: RESUME_HINT)
    return written


def predict_rank(
    config: TrainConfig,
    model: tuple[str | Path, str | None, str, str],
    options: PredictOptions,
    sources: list[str],
    out: Path,
) -> list[Path]:
    """Predict this rank's share of the images and return the masks of all ranks.

    Args:
        config: Accelerator and devices.
        model: The arguments of `load`: run, network, checkpoint, accelerator.
        options: The options.
        sources: What contains the images.
        out: The output directory.
    """
    from semiseg.training.distributed.fabric_setup import launched
    from semiseg.training.distributed.process_group import process_group

    with launched(config) as fabric, process_group(fabric, lambda: RESUME_HINT) as group:
        trained = group.on_all_ranks(lambda: load(*model))
        predictor = group.on_all_ranks(lambda: trained.make_predictor(trained.network))
        crop_size, processes = trained.config.crop_size, group.world_size
        bounded = BoundedPredictor(predictor, crop_size, options.mode, options.window, processes)
        writer = PredictionWriter(bounded, trained.classes, trained.palette, options.kinds, options.min_confidence)
        are_shards = group.from_rank_zero(lambda: any(map(holds_shards, sources)))
        predict_sources = predict_shards if are_shards else predict_images
        written = predict_sources(group, writer, sources, out, options)
        group.barrier()
        return written


def predict_images(
    group: ProcessGroup, writer: PredictionWriter, sources: list[str], out: Path, options: PredictOptions
) -> list[Path]:
    """Predict image files and directories of image files; return the masks."""

    def plan() -> tuple[FoundImages, list[Task]]:
        everything = find_images(sources, out)
        found = FoundImages(everything.images[options.part], everything.unsupported[options.part])
        if name := COLLECTED.get(options.format):
            require_new(out / name, options.skip_existing)
        tasks = plan_files(found.images, writer.kinds, out, options.skip_existing)
        make_folder(out)
        found.print_unsupported()
        return found, tasks

    found, tasks = group.from_rank_zero(plan)
    count = len(found.images) + len(found.unsupported)
    readable = group.map(lambda share: predict_files(writer, share, skip_unreadable=count > 1), tasks)
    if options.format in COLLECTED:
        group.on_rank_zero(lambda: write_collected(writer, found.images, out, options.format))
    elif options.format in PHOTOGRAPHS:
        group.on_rank_zero(lambda: complete_folder(writer.classes, found.images, out, options.format))
    if failed := readable.count(False) + len(found.unsupported):
        fix = "repair, convert or remove them, and run it again with --skip-existing"
        group.fail(unreadable(failed, count, out, fix))
    return [task.mask for task in tasks if MASK in task.files]


def predict_shards(
    group: ProcessGroup, writer: PredictionWriter, sources: list[str], out: Path, options: PredictOptions
) -> list[Path]:
    """Predict the images of shards; return the shards of masks."""

    def plan() -> tuple[Shards, list[int]]:
        if len(sources) > 1:
            raise UserError("shards must come from one source", path=sources[0], fix="predict each source separately")
        if options.format != "png":
            raise UserError("shards are predicted as png only", option="format", fix="leave it out")
        shards = open_shards(sources[0])
        todo = plan_shards(shards, out, options.skip_existing, options.part)
        make_folder(out)
        return shards, todo

    shards, todo = group.from_rank_zero(plan)
    results = group.map(lambda share: (predict_shard(writer, shards, number, out) for number in share), todo)
    if failed := sum(count for count, _ in results):
        fix = "repair the shards, delete the masks of those with damaged images, and run it again with --skip-existing"
        group.fail(unreadable(failed, len(shards), out, fix))
    return [file for _, file in results if file]


def unreadable(failed: int, count: int, out: Path, fix: str) -> UserError:
    """Return the error about images that cannot be read."""
    return UserError(f"{failed} of {count} images cannot be read, see above, and have no mask in {out}", fix=fix)
