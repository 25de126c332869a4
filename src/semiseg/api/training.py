"""From options to a run: resolve them, check all that a run needs, train, go on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from semiseg.api.reporting import report
from semiseg.config import TrainConfig, check_mapping, from_mapping, read_yaml
from semiseg.data import open_dataset
from semiseg.data.annotation import check_annotation
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.pool import room_note
from semiseg.data.splits import Split, check_masks, count_pixels, resolve_split
from semiseg.errors import ToldElsewhere, UserError, lookup
from semiseg.methods import ALIASES, VARIANTS, Method
from semiseg.presets import PRESETS
from semiseg.training.disk import checkpoint_bytes, require_room, told_in_one_line
from semiseg.training.find_method import find_method, is_own, short_name, trust
from semiseg.training.reading import make_reader
from semiseg.training.run_directory import RunDirectory
from semiseg.training.trackers import require_trackers

PLACE = ("devices", "nodes")  # what may be another when a run goes on
T = TypeVar("T")


def resolve(values: dict[str, Any], preset: str | None = None, file: str | None = None) -> tuple[TrainConfig, Any]:
    """Merge defaults, preset, variant, file and ``values``, later ones first in rank, into one configuration.

    Raises:
        UserError: an unknown method, preset or key, or a value of the wrong type or range.
    """
    from_file = {key.replace("-", "_"): value for key, value in read_yaml(Path(file)).items()} if file else {}
    preset_in_file = from_file.pop("preset", None)
    preset = preset_in_file if preset is None else preset
    if preset is not None and not isinstance(preset, str):
        raise UserError(f"{file}: preset is {preset!r}: expected one of {', '.join(PRESETS)}")
    name = str(values.get("method") or from_file.get("method") or TrainConfig.method)
    name, of_variant = VARIANTS.get(name, (ALIASES.get(name, name), {}))
    method = find_method(name)
    if is_own(name):
        trust(name)
        name = f"{Path(name.rpartition(':')[0]).resolve()}:{short_name(name)}"  # the run may be opened from elsewhere
    presets = lookup("preset", preset, PRESETS) if preset else {}
    from_preset = presets.get(name, presets.get("supervised", {}))  # a method of one's own: what all share
    kinds = (TrainConfig, method.Options)
    if file:
        from_file = check_mapping(kinds, from_file, file)
    below = from_preset | of_variant | from_file
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in values:
            below.pop(other, None)
    config, options = from_mapping(kinds, below | values | {"method": name}, "options")
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
        resume: a run to go on with; of the other arguments ``devices`` and ``nodes`` alone may be given with it.
        options: any option of ``semiseg train``, with ``_`` for ``-``.

    Raises:
        UserError: the input is at fault; one line says where and what to do.
    """
    if resume is not None:
        if not options.keys() <= set(PLACE) or any(x is not None for x in (data, method, out, preset, config)):
            raise UserError(f"resume takes all but {' and '.join(PLACE)} from the run: leave the other arguments out")
        return resume_run(resume, **options)
    given = {"data": None if data is None else str(data), "method": method} | options
    settings, method_options = resolve({k: v for k, v in given.items() if v is not None}, preset, config)
    return train_with(settings, method_options, out)


def train_with(config: TrainConfig, options: Any, out: str | Path | None = None) -> Path:
    """Train by a resolved configuration; return the run directory."""
    from semiseg.training.batch_size import settle_batch
    from semiseg.training.fabric import launched
    from semiseg.training.interruption import interruptible
    from semiseg.training.launching import placed
    from semiseg.training.peers import together

    path = Path(out) if out else Path("runs") / f"{Path(config.data).name.split(':')[0]}-{short_name(config.method)}"
    config = placed(config)
    with (
        launched(config) as fabric,
        together(fabric, path) as peers,
        interruptible(path, fabric.is_global_zero, peers.lost) as interruption,
    ):
        settled, found = config, ""
        if config.batch_size == "auto":
            on_first(peers, lambda: check_before_trying(path, config, options, fabric.device))
            settled, found = settle_batch(config, options, fabric, peers)
        run = on_first(peers, lambda: prepare(path, settled, options, found))
        return finish(run or RunDirectory(path), fabric, peers, interruption)


def resume_run(path: str | Path, devices: int | str | None = None, nodes: int | None = None) -> Path:
    """Go on with a run from its last checkpoint, or from its start where there is none yet; elsewhere if asked."""
    from semiseg.training.fabric import launched
    from semiseg.training.interruption import interruptible
    from semiseg.training.launching import placed, started_by
    from semiseg.training.peers import together

    run = RunDirectory.open(path)
    config = run.read_config()[0]
    if started_by():  # it says how many there are; the run knows only how many there were
        config = replace(config, devices="auto", nodes=1)
    asked = {name: value for name, value in zip(PLACE, (devices, nodes), strict=True) if value is not None}
    config = placed(from_mapping((TrainConfig,), vars(config) | asked, "options")[0])
    with (
        launched(config) as fabric,
        together(fabric, run.path) as peers,
        interruptible(run.path, fabric.is_global_zero, peers.lost) as interruption,
    ):
        return finish(run, fabric, peers, interruption)


def finish(run: RunDirectory, fabric: Any, peers: Any, interruption: Any) -> Path:
    """Hold the run, train it to the end and write the report; all but ``run``: as they were opened."""
    from semiseg.training.trainer import train_run

    with ExitStack() as stack:
        stack.enter_context(told_in_one_line(run.path))
        on_first(peers, lambda: warn(stack.enter_context(run.held())))
        peers.require(
            (run.path / "config.yaml").is_file(),
            f"{run.path}: not every machine sees it: choose an --out on a disk that all of them share",
        )
        train_run(run, fabric, interruption)
        peers.part()
        if fabric.is_global_zero:
            report([run.path])
    return run.path


def on_first(peers: Any, act: Callable[[], T]) -> T | None:
    """Do something on the first process and return what it gives there; where it fails, the others end with it."""
    if peers.rank:
        if error := peers.told(""):
            raise ToldElsewhere(error)
        return None
    try:
        done = act()
    except BaseException as problem:  # whatever it was, the other processes wait to hear of it
        with suppress(RuntimeError):  # unless the same has ended them
            peers.told(str(problem) or type(problem).__name__)
        raise
    peers.told("")
    return done


def warn(line: str) -> None:
    """Print a line on stderr, if there is one."""
    if line:
        print(line, file=sys.stderr)


def check_before_trying(path: Path, config: TrainConfig, options: Any, device: Any) -> None:
    """See that ``--batch-size auto`` can be found out, for a run that can be made.

    Raises:
        UserError: there is no GPU, or anything else that the user should correct first.
    """
    from semiseg.training.batch_size import require_gpu
    from semiseg.training.launching import launch_id

    require_gpu(device)
    if launch_id() is None:  # else it may be a run that goes on
        RunDirectory.refuse_existing(path)
    check_network(config, options, open_data(config)[0])


def open_data(config: TrainConfig) -> tuple[SegmentationDataset, Split]:
    """Return the data and the lists of images of a run.

    Raises:
        UserError: there are none, or none that the method needs.
    """
    if not config.data:
        raise UserError("--data is missing: give a directory with images/ and masks/, or shapes")
    dataset = open_dataset(config.data)
    split = resolve_split(dataset, config.labeled, config.seed, config.unlabeled, config.existing_only)
    check_unlabeled(config, split)
    return dataset, split


def prepare(path: Path, config: TrainConfig, options: Any, note: str = "") -> RunDirectory:
    """Check everything a run needs before its first step, print what is noteworthy, and make its directory.

    ``note``: what is to be told beside. A run that this torchrun has begun before is there already.

    Raises:
        UserError: anything the user should correct first.
    """
    if (run := RunDirectory(path)).is_of_this_launch(config, options):
        print(f"{path}: torchrun has started the run again: it goes on", file=sys.stderr)
        return run
    RunDirectory.refuse_existing(path)
    dataset, split = open_data(config)
    check_masks(dataset, (*split.val, *split.test))
    pixels = count_pixels(dataset, split.labeled)
    require_trackers(config)
    notes = [
        *([note] if note else []),
        *split.notes,
        *check_annotation(dataset, split.labeled, pixels, config.annotation),
    ]
    if split.shards is not None and (room := room_note(split.shards, config.batch // config.nodes)):
        notes.append(room)
    notes += noteworthy(config, options, dataset, split, pixels.sum(axis=0).tolist())
    notes += make_reader(config, dataset, split)[1]
    needed = checkpoint_bytes(check_network(config, options, dataset), config)
    notes.append(require_room(path, needed))
    run = RunDirectory.create(path, config, options, dataset, split)
    head = (
        f"{config.method} on {config.data}: {len(split.labeled)} labeled, {split.unlabeled_count} unlabeled, "
        f"{len(split.val)} val, {len(split.test)} test images, {len(dataset.classes)} classes"
    )
    run.log.write_text("\n".join([head, *notes]) + "\n", encoding="utf-8")
    for line in (head, *notes):
        print(line, file=sys.stderr)
    return run


def noteworthy(
    config: TrainConfig, options: Any, dataset: SegmentationDataset, split: Split, pixels: list[int]
) -> list[str]:
    """Say in a line each how data and configuration do not go together, where that is no reason to refuse.

    ``pixels`` counts those of each mask value over the labeled images.
    """
    notes, tagged = [], dataset.any_tags(split.labeled, split.unlabeled)
    fills = hasattr(options, "fill_weight") or not find_method(config.method).uses_unlabeled
    if config.annotation != "full" and not fills:
        notes.append(f"{config.method} has no teacher that fills in what nobody annotated: those pixels are left out")
    if tagged and not hasattr(options, "tag_weight"):
        notes.append(f"warning: {config.method} makes no use of image tags")
    if missing := [name for value, name in enumerate(dataset.classes) if not pixels[value]]:
        notes.append(f"warning: no labeled pixel of {', '.join(missing)}: the model cannot learn what no label shows")
    if config.freeze_encoder and config.weights == "none":
        notes.append("warning: the frozen encoder's weights are random: --weights says where others come from")
    if len(split.labeled) < config.batch:
        notes.append(
            f"warning: {len(split.labeled)} labeled images for batches of {config.batch_size}: images repeat in a batch"
        )
    return notes


def check_unlabeled(config: TrainConfig, split: Split) -> None:
    """Raise UserError where the method needs unlabeled images and the split has none."""
    if find_method(config.method).uses_unlabeled and not split.unlabeled_count:
        raise UserError(
            f"{config.data}: no unlabeled images left for {config.method}: "
            "add images without masks, use fewer labels by --labeled, or take --method supervised"
        )


def check_network(config: TrainConfig, options: Any, dataset: SegmentationDataset) -> Method:
    """Build the method once and return it.

    Raises:
        UserError: there is no such network, or the method cannot use it.
    """
    from semiseg.training.parts import make_method

    try:
        return make_method(config, options, dataset)
    except ValueError as error:
        raise UserError(f"{config.method} over {config.encoder}: {error}") from None
