"""Predict the images of shards: one shard of masks for each shard of images."""

from __future__ import annotations

import io
import os
from pathlib import Path, PurePosixPath
from typing import Any

from semiseg.data.stream.make_shards import tar_writer
from semiseg.data.stream.remote_files import Unreachable
from semiseg.data.stream.shards import Shards
from semiseg.data.stream.tar_files import escapes_folder, read_image
from semiseg.errors import UserError, os_error
from semiseg.inference.files.image_source import MemoryImage
from semiseg.inference.files.predict_files import print_skipped
from semiseg.inference.formats.prediction_writer import MASK, PredictionWriter


def plan_shards(shards: Shards, out: Path, skip_existing: bool, part: slice = slice(None)) -> list[int]:
    """Return the indices of the shards to predict.

    Args:
        shards: The shards of images.
        out: The output directory.
        skip_existing: Whether to leave out shards of masks that exist instead of raising an error.
        part: The shards to consider.

    Raises:
        UserError: A shard of masks exists, or its name in the index is malformed or leads out of ``out``.
    """
    todo = []
    for number, name in [*enumerate(shards.names)][part]:
        if escapes_folder(name) or name != str(PurePosixPath(name)):  # from a malformed or malicious index
            problem = f"{name!r} is not a plain file name below {shards.base or 'one directory'}"
            raise UserError(problem, path=shards.source, fix="correct the name in the index")
        if not (out / name).exists():
            todo.append(number)
        elif not skip_existing:
            raise UserError("exists", path=out / name, fix="choose another --out, or add --skip-existing")
    return todo


def predict_shard(writer: PredictionWriter, shards: Shards, number: int, out: Path) -> tuple[int, Path | None]:
    """Write the shard of masks for a shard: ``<key>.png``, ``<key>.overlay.png`` and so on, or no file at all.

    Print and skip images that cannot be read.

    Args:
        writer: Predicts and renders.
        shards: The shards of images.
        number: Index of the shard.
        out: The output directory.

    Returns:
        The number of images that were skipped, and the file, None if the whole shard cannot be read.

    Raises:
        UserError: The shard of masks cannot be written.
    """
    format = writer.predictor.predictor.pixel_format
    url, size, file = shards.url(number), int(shards.sizes[number]), out / shards.names[number]
    failed, draft = 0, file.with_name(f".{file.name}.part")
    try:
        path, members = shards.members(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as stream, tar_writer(stream) as tar:
            for key, member in members.items():
                try:
                    image = read_image(url, size, key, path, member, format=format).pixels
                    pictures = writer.render(MemoryImage(image, f"{url}: {key}"))
                except Unreachable:
                    raise
                except UserError as error:
                    print_skipped(error)
                    failed += 1
                    continue
                names = {kind: "png" if kind == MASK else f"{kind}.png" for kind in pictures}
                tar.write({"__key__": key} | {names[kind]: as_png(picture) for kind, picture in pictures.items()})
        os.replace(draft, file)
    except Unreachable as error:
        print_skipped(error)
        return int(shards.counts[number]), None
    except OSError as error:
        raise os_error(error, "cannot be written", file, "choose another --out") from None
    finally:
        draft.unlink(missing_ok=True)
    return failed, file


def as_png(picture: Any) -> bytes:
    """Return a Pillow image as PNG bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
