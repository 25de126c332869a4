"""semiseg from Python: the same verbs as on the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn

from semiseg.config import TrainConfig, check_mapping, from_mapping, read_yaml
from semiseg.data import open_dataset
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.images import IMAGE_SUFFIXES, list_files, read_image_file
from semiseg.data.splits import check_masks, resolve_split
from semiseg.devices import find_accelerator
from semiseg.errors import ToldElsewhere, UserError, lookup
from semiseg.evaluation.evaluate import TEACHERS_AVERAGE, evaluate_networks
from semiseg.evaluation.predictor import Prediction, Predictor
from semiseg.methods import ALIASES, METHODS
from semiseg.networks import build
from semiseg.presets import PRESETS
from semiseg.report import LoadedRun, write_report
from semiseg.report.pictures import overlay as blended
from semiseg.report.pictures import save_indexed_png
from semiseg.training.checkpoint import load_checkpoint
from semiseg.training.run_directory import RunDirectory
from semiseg.training.trackers import require_tensorboard


def resolve(values: dict[str, Any], preset: str | None = None, file: str | None = None) -> tuple[TrainConfig, Any]:
    """Merge defaults, preset, configuration file and ``values``, later ones first in rank, into one configuration.

    Raises:
        UserError: an unknown method, preset or key, or a value of the wrong type or range.
    """
    from_file = {key.replace("-", "_"): value for key, value in read_yaml(Path(file)).items()} if file else {}
    preset_in_file = from_file.pop("preset", None)
    preset = preset_in_file if preset is None else preset
    if preset is not None and not isinstance(preset, str):
        raise UserError(f"{file}: preset is {preset!r}: expected one of {', '.join(PRESETS)}")
    name = str(values.get("method") or from_file.get("method") or TrainConfig.method)
    name = ALIASES.get(name, name)
    method = lookup("method", name, METHODS)
    from_preset = lookup("preset", preset, PRESETS).get(name, {}) if preset else {}
    kinds = (TrainConfig, method.Options)
    if file:
        from_file = check_mapping(kinds, from_file, file)
    config, options = from_mapping(kinds, from_preset | from_file | values | {"method": name}, "options")
    return config, options


def train(
    data: str | Path | None = None,
    method: str | None = None,
    out: str | Path | None = None,
    *,
    preset: str | None = None,
    config: str | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> Path:
    """Train a model and return its run directory.

    Args:
        data: a directory with ``images/`` and ``masks/``, or ``shapes`` for generated images.
        method: the method's name (``semiseg methods``); Dual Teacher where absent.
        out: a new directory; ``runs/DATA-METHOD`` where absent.
        preset: a named set of options (``small``).
        config: a YAML file of options.
        resume: a run to go on with, instead of all other arguments.
        options: any option of ``semiseg train``, with ``_`` for ``-``.

    Raises:
        UserError: the input is at fault; one line says where and what to do.
    """
    if resume is not None:
        if options or any(given is not None for given in (data, method, out, preset, config)):
            raise UserError("resume takes everything from the run: leave the other arguments out")
        return resume_run(resume)
    given = {"data": None if data is None else str(data), "method": method} | options
    settings, method_options = resolve({k: v for k, v in given.items() if v is not None}, preset, config)
    return train_with(settings, method_options, out)


def train_with(config: TrainConfig, options: Any, out: str | Path | None = None) -> Path:
    """Train by a resolved configuration; return the run directory."""
    from semiseg.training.trainer import make_fabric

    path = Path(out) if out else Path("runs") / f"{Path(config.data).name.split(':')[0]}-{config.method}"
    fabric = make_fabric(config)
    fabric.launch()
    if fabric.is_global_zero:
        try:
            prepare(path, config, options, fabric.world_size)
        except BaseException as problem:  # whatever it was, the other processes wait to hear of it
            fabric.broadcast(str(problem) or type(problem).__name__)
            raise
        fabric.broadcast("")
    elif error := fabric.broadcast(""):
        raise ToldElsewhere(error)
    return finish(RunDirectory(path), fabric)


def resume_run(path: str | Path) -> Path:
    """Go on with a run from its last checkpoint, or from its start where there is none yet."""
    from semiseg.training.trainer import make_fabric

    run = RunDirectory.open(path)
    fabric = make_fabric(run.read_config()[0])
    fabric.launch()
    return finish(run, fabric)


def finish(run: RunDirectory, fabric: Any) -> Path:
    """Train to the end and write the report."""
    from semiseg.training.trainer import train_run

    train_run(run, fabric)
    if fabric.is_global_zero:
        report([run.path])
    return run.path


def prepare(path: Path, config: TrainConfig, options: Any, processes: int = 1) -> RunDirectory:
    """Check everything a run needs before its first step, print what is noteworthy, and make its directory.

    Raises:
        UserError: anything the user should correct first.
    """
    from semiseg.training.trainer import make_method

    RunDirectory.refuse_existing(path)
    if not config.data:
        raise UserError("--data is missing: give a directory with images/ and masks/, or shapes")
    dataset = open_dataset(config.data)
    split = resolve_split(dataset, config.labeled, config.seed)
    if METHODS[config.method].uses_unlabeled and not split.unlabeled:
        raise UserError(
            f"{config.data}: no unlabeled images left for {config.method}: "
            "add images without masks, use fewer labels by --labeled, or take --method supervised"
        )
    check_masks(dataset, (*split.val, *split.test))
    pixels = check_masks(dataset, split.labeled)
    if config.batch_size % processes:
        raise UserError(f"--batch-size {config.batch_size} does not divide by {processes} processes: take a multiple")
    if config.tensorboard:
        require_tensorboard()
    notes = [*split.notes]
    if missing := [name for name, count in zip(dataset.classes, pixels, strict=True) if not count]:
        notes.append(f"warning: no labeled pixel of {', '.join(missing)}: the model cannot learn what no label shows")
    if len(split.labeled) < config.batch_size:
        notes.append(
            f"warning: {len(split.labeled)} labeled images for batches of {config.batch_size}: images repeat in a batch"
        )
    try:
        make_method(config, options, dataset)
    except ValueError as error:
        raise UserError(f"{config.method} over {config.encoder}: {error}") from None
    run = RunDirectory.create(path, config, options, split)
    head = (
        f"{config.method} on {config.data}: {len(split.labeled)} labeled, {len(split.unlabeled)} unlabeled, "
        f"{len(split.val)} val, {len(split.test)} test images, {len(dataset.classes)} classes"
    )
    run.log.write_text("\n".join([head, *notes]) + "\n", encoding="utf-8")
    for line in (head, *notes):
        print(line, file=sys.stderr)
    return run


class Model:
    """A trained network, ready to use: ``model(image)`` returns ``Prediction(mask, confidence)``.

    ``image`` is a path, or uint8 ``(3, H, W)``, RGB, of any size; ``mask`` is uint8 ``(H, W)`` and ``confidence`` float
    ``(H, W)`` in [0, 1], at the image's size.
    """

    def __init__(self, checkpoint: Path, network: str | None = None, accelerator: str = "auto") -> None:
        state = load_checkpoint(checkpoint)
        self.path, self.step = checkpoint, int(state["step"])
        self.classes, self.palette = tuple(state["classes"]), tuple(tuple(color) for color in state["palette"])
        method = lookup("method", state["config"]["method"], METHODS)
        self.config, options = from_mapping((TrainConfig, method.Options), state["config"], str(checkpoint))
        device = torch.device(find_accelerator(accelerator))
        shape = (self.config.architecture, self.config.encoder, len(self.classes))
        self.method = method(lambda: build(*shape, weights="none"), len(self.classes), options)
        try:
            self.method.load_state_dict(state["method"])
        except RuntimeError as error:
            raise UserError(
                f"{checkpoint}: its weights do not fit the network it names, {shape[0]} over {shape[1]} "
                f"({str(error).splitlines()[-1].strip()[:120]}): use an unchanged checkpoint"
            ) from None
        self.method.to(device).to(memory_format=torch.channels_last).eval()
        self.device, self.networks = device, self.method.predictors
        self.network = network or self.method.default_network
        self.predictor = self.make_predictor(self.network)

    def make_predictor(self, name: str, mode: str = "whole") -> Predictor:
        """Return the predictor of one network, or of the average of all teachers.

        Raises:
            UserError: the method has no such network.
        """
        teachers = [net for key, net in self.networks.items() if key.startswith("teacher")]
        choices = dict(self.networks) | ({TEACHERS_AVERAGE: teachers} if len(teachers) > 1 else {})
        chosen: nn.Module | list[nn.Module] = lookup("network", name, choices)
        return Predictor(chosen, mode, self.config.crop_size, self.config.image_scale, self.device)

    def __call__(self, image: Tensor | str | Path) -> Prediction:
        """Predict one image, given as a path or as uint8 ``(3, H, W)``."""
        return self.predictor(image if isinstance(image, Tensor) else read_image_file(image))


def find_checkpoint(path: str | Path, checkpoint: str = "best") -> Path:
    """Return the checkpoint file that ``path``, a run or a file, means.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        run = RunDirectory.open(path)
        path = lookup("checkpoint", checkpoint, {"best": run.best, "last": run.last})
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint: check the path, or train until the first validation")
    return path


def load(path: str | Path, network: str | None = None, checkpoint: str = "best", accelerator: str = "auto") -> Model:
    """Load a trained model from a run directory or a checkpoint file.

    Example:
        ``mask = semiseg.load("runs/flowers")("photo.jpg").mask``
    """
    return Model(find_checkpoint(path, checkpoint), network, accelerator)


def evaluation_ids(model: Model, dataset: SegmentationDataset, data: str, split: str) -> tuple[str, ...]:
    """The images of a split: the run's own lists for the run's own data, else the data set's.

    Raises:
        UserError: the data has no such list.
    """
    run = RunDirectory(model.path.parent.parent)
    if data == model.config.data and (run.path / "splits").is_dir():
        ids: tuple[str, ...] | None = getattr(run.read_split(), split, None)
    else:
        ids = dataset.split(split)
    if not ids:
        raise UserError(f"{data}: no {split} list: add splits/{split}.txt, or choose --split val")
    return ids


def evaluate(
    path: str | Path,
    data: str | Path | None = None,
    split: str = "test",
    *,
    network: str | None = None,
    checkpoint: str = "best",
    sliding: bool = False,
    accelerator: str = "auto",
) -> dict[str, Any]:
    """Evaluate every network of a trained model exactly, at the masks' own resolution, in percent.

    Returns:
        ``split, network, miou, pixel_accuracy, iou`` of ``network`` (default: the method's), ``checkpoint``, ``step``,
        and ``networks``, the same figures for all. A run keeps what was asked in its ``evaluations.jsonl``.

    Raises:
        UserError: no such checkpoint, data, list or network, or classes that differ.
    """
    model = load(path, network, checkpoint, accelerator)
    source = str(data or model.config.data)
    if Path(source).is_dir() and Path(source).resolve() == Path(model.config.data).resolve():
        source = model.config.data  # the same place, written in another way: the run's own lists hold
    dataset = open_dataset(source)
    if dataset.classes != model.classes:
        theirs, ours = ", ".join(dataset.classes), ", ".join(model.classes)
        raise UserError(f"{source}: its classes ({theirs}) are not the model's ({ours}): take data of its classes")
    evaluation = evaluate_networks(
        model.networks,
        dataset,
        evaluation_ids(model, dataset, source, split),
        device=model.device,
        image_scale=model.config.image_scale,
        mode="slide" if sliding else "whole",
        crop_size=model.config.crop_size,
    )
    networks = {name: matrix.summary(dataset.classes) for name, matrix in evaluation.matrices.items()}
    chosen = lookup("network", model.network, networks)
    where = {"split": split, "network": model.network, "checkpoint": model.path.stem, "step": model.step}
    result = where | {"sliding": sliding} | chosen | {"networks": networks}
    run = model.path.parent.parent
    if (run / "config.yaml").is_file():
        with open(run / "evaluations.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(result | {"data": source}) + "\n")
    return result


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
    accelerator: str = "auto",
) -> list[Path]:
    """Write ``OUT/<stem>.png``, an indexed mask with palette at the image's size, for every image.

    Args:
        path: a run or a checkpoint.
        images: image files, and directories of such.
        out: a directory; existing files are not overwritten.
        network: the network to ask.
        checkpoint: ``best`` or ``last``.
        overlay: write ``OUT/<stem>_overlay.png`` too.
        confidence: write ``OUT/<stem>_confidence.png`` too, gray, 255 for certainty.
        sliding: use a sliding window of the training's crop size.
        accelerator: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: no image, two of one stem, an unreadable one, or an output that exists.
    """
    model = load(path, network, checkpoint, accelerator)
    predictor = model.make_predictor(model.network, "slide" if sliding else "whole")
    out = Path(out)
    todo = collect_images([images] if isinstance(images, (str, Path)) else images)
    kinds = ["", *(["_overlay"] if overlay else []), *(["_confidence"] if confidence else [])]
    for file in (out / f"{stem}{kind}.png" for stem in todo for kind in kinds):
        if file.exists():
            raise UserError(f"{file} exists: choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}): choose another --out") from None
    written = []
    for stem, file in todo.items():
        image = read_image_file(file)
        prediction = predictor(image)
        mask = prediction.mask.cpu()
        written.append(out / f"{stem}.png")
        save_indexed_png(mask, model.palette, written[-1])
        if overlay:
            blended(image, mask, model.palette).save(out / f"{stem}_overlay.png")
        if confidence:
            gray = (prediction.confidence * 255).round().to(torch.uint8).cpu().numpy()
            PIL.Image.fromarray(gray).save(out / f"{stem}_confidence.png")
    return written


def collect_images(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Map the stem of every image file in ``paths`` (files and directories) to its path.

    Raises:
        UserError: a missing path, no image at all, or two images of one stem.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path}: no such file or directory: check the path")
        files = list_files(path, IMAGE_SUFFIXES) if path.is_dir() else {path.stem: path}
        for stem, file in files.items():
            if found.setdefault(stem, file) != file:
                raise UserError(f"{file}: {found[stem]} has the same stem, and one mask would overwrite the other")
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: no images there (looked for {', '.join(IMAGE_SUFFIXES)})")
    return found


def report(runs: Iterable[str | Path], out: str | Path | None = None) -> Path:
    """Write the report of one run, or the page and the picture that compare several; return the page's path."""
    paths = [RunDirectory.open(run).path for run in runs]
    return write_report(paths, Path(out) if out else None, load_run=loaded_run)


def loaded_run(path: Path) -> LoadedRun:
    """Open a run for the report: its default network at its best checkpoint, its data and its lists."""
    model = load(path)
    dataset, split = open_dataset(model.config.data), RunDirectory(path).read_split()
    return LoadedRun(
        name=model.config.method,
        predict=lambda image: model(image).mask.cpu(),
        dataset=dataset,
        ids=split.test or split.val,
        classes=model.classes,
        palette=model.palette,
        config=read_yaml(path / "config.yaml"),
    )
