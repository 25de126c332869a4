"""Predict with a trained model: a mask for every image of files, folders and shards."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from semiseg.config import TrainConfig
from semiseg.data.dataset import read_ahead
from semiseg.data.files.image_files import IMAGE_SUFFIXES, list_files, read_image_file
from semiseg.data.stream.shards import Shards, holds_shards, open_shards
from semiseg.errors import UserError, printable
from semiseg.inference.mask_writer import Masks, write_pictures
from semiseg.inference.predict_shards import plan_shards, predict_shard
from semiseg.tools.models.trained_model import load

if TYPE_CHECKING:
    from semiseg.training.distributed.process_group import Peers

Plan = dict[Path, dict[str, Path]]
"""The files to write for each image, by kind."""
Task = tuple[Path, dict[str, Path]]
Seen = tuple[Tensor | UserError, dict[str, Path]]
"""What was read of an image, or why nothing was, and the files to write."""
UNREADABLE = "{} of {} images cannot be read, see above, and have no mask in {}; all others have"
GO_ON = "go on by the same command with --skip-existing"
REMEDY = ": mend the shards; remove what is there of those with damaged images; run it again with --skip-existing"


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

    Of shards, ``OUT/<name>.tar`` holds ``<key>.png`` for every image, and is whole or not there; these are returned. An
    image of several that cannot be read is told on stderr, in a line; all others are predicted before the error.

    Args:
        path: a run or a checkpoint.
        images: image files, and directories of such; or shards, a directory or a URL.
        out: a directory; existing files are not overwritten.
        network: the network to ask.
        checkpoint: ``best`` or ``last``.
        overlay: write ``OUT/<stem>_overlay.png`` too, ``<key>.overlay.png`` in shards.
        confidence: write ``OUT/<stem>_confidence.png`` too, ``<key>.confidence.png`` in shards: gray, 255 is
            certain.
        sliding: use a sliding window of the training's crop size.
        skip_existing: write only what is not there yet; otherwise a file that is there is an error.
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: how many processes share the work; ``auto``: one, or those that torchrun has started.

    Raises:
        UserError: no image, two of one stem, an output that exists, or, at the end, images that cannot be read.
    """
    from semiseg.training.distributed.fabric_setup import launched
    from semiseg.training.distributed.launch import located
    from semiseg.training.distributed.process_group import together

    places = [str(images)] if isinstance(images, (str, Path)) else [str(place) for place in images]
    kinds = ["", *(["_overlay"] if overlay else []), *(["_confidence"] if confidence else [])]
    where: Any = {"accelerator": accelerator, "devices": devices}
    with launched(located(TrainConfig(**where))) as fabric, together(fabric, lambda: GO_ON) as peers:
        model = peers.on_each(lambda: load(path, network, checkpoint, accelerator))
        predictor = peers.on_each(lambda: model.make_predictor(model.network, "slide" if sliding else "whole"))
        masks = Masks(predictor, model.palette, kinds)
        packed = peers.from_first(lambda: any(map(holds_shards, places)))
        of = of_shards if packed else of_images
        written = of(peers, masks, places, Path(out), skip_existing)
        peers.part()
        return written


def of_images(peers: Peers, masks: Masks, places: list[str], out: Path, skip_existing: bool) -> list[Path]:
    """Predict image files and folders of such."""

    def plan() -> tuple[int, list[Task]]:
        found = collect_images(places)
        todo = plan_files(found, masks.kinds, out, skip_existing)
        make_folder(out)
        return len(found), [*todo.items()]

    count, todo = peers.from_first(plan)

    def read(task: Task) -> Seen:
        source, files = task
        try:
            return read_image_file(source), files
        except UserError as error:
            if count == 1:
                raise
            return error, files

    def several(tasks: Sequence[Task]) -> Iterator[bool]:
        with closing(read_ahead(read, tasks)) as images:
            for image, files in images:
                if isinstance(image, UserError):
                    print(f"{printable(str(image))}; skipped", file=sys.stderr)
                else:
                    write_pictures(masks.draw(image, files), files)
                yield not isinstance(image, UserError)

    if failed := peers.shared_out(todo, several).count(False):
        remedy = ": mend or remove these, and run it again with --skip-existing"
        peers.refuse(UNREADABLE.format(failed, count, out) + remedy)
    return [files[""] for _, files in todo if "" in files]


def of_shards(peers: Peers, masks: Masks, places: list[str], out: Path, skip_existing: bool) -> list[Path]:
    """Predict the images of shards."""

    def plan() -> tuple[Shards, list[int]]:
        if len(places) > 1:
            raise UserError(f"{places[0]} and others: give shards of one place alone, others in another call")
        shards = open_shards(places[0])
        todo = plan_shards(shards, out, skip_existing)
        make_folder(out)
        return shards, todo

    shards, todo = peers.from_first(plan)
    done = peers.shared_out(todo, lambda numbers: (predict_shard(masks, shards, number, out) for number in numbers))
    if failed := sum(count for count, _ in done):
        peers.refuse(UNREADABLE.format(failed, len(shards), out) + REMEDY)
    return [file for _, file in done if file]


def plan_files(found: Mapping[str, Path], kinds: Iterable[str], out: Path, skip_existing: bool) -> Plan:
    """Return what is to be written for each image: by kind ("", _overlay, _confidence), the file.

    Args:
        found: the images, by stem.
        kinds: what is asked for.
        out: the directory.
        skip_existing: whether to leave out what is there; otherwise it is an error.

    Raises:
        UserError: a file exists, or would be written for two images.
    """
    owners: dict[Path, Path] = {}
    todo: Plan = {}
    for stem, source in found.items():
        for kind in kinds:
            file = out / f"{stem}{kind}.png"
            if owners.setdefault(file, source) != source:
                raise UserError(f"{file}: would be written for two images: predict them into folders of their own")
            if not file.exists():
                todo.setdefault(source, {})[kind] = file
            elif not skip_existing:
                raise UserError(f"{file} exists: choose another --out, or go on by --skip-existing")
    return todo


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


def make_folder(out: Path) -> Path:
    """Make a directory; raises UserError where that is impossible."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}): choose another --out") from None
    return out
