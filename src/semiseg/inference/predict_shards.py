"""Predict the images of shards: a shard of masks for each."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from semiseg.data.files.image_files import reason
from semiseg.data.stream.make_shards import tar_writer
from semiseg.data.stream.remote_files import Unreachable
from semiseg.data.stream.shards import Shards
from semiseg.data.stream.tar_files import escapes_folder, read_image
from semiseg.errors import UserError, printable
from semiseg.inference.mask_writer import Masks


def plan_shards(shards: Shards, out: Path, skip_existing: bool) -> list[int]:
    """Return the numbers of the shards whose masks are to be written.

    Raises:
        UserError: one exists, or would be written elsewhere than below ``out``, or where another one is.
    """
    todo = []
    for number, name in enumerate(shards.names):
        if escapes_folder(name) or name != str(PurePosixPath(name)):  # of an index by a stranger, or of several places
            raise UserError(f"{shards.source}: its {name!r} is no plain name below {shards.base or 'one place'}")
        if not (out / name).exists():
            todo.append(number)
        elif not skip_existing:
            raise UserError(f"{out / name} exists: choose another --out, or go on by --skip-existing")
    return todo


def predict_shard(masks: Masks, shards: Shards, number: int, out: Path) -> tuple[int, Path | None]:
    """Write the shard of masks of a shard, whole or not at all: ``<key>.png``, ``<key>.overlay.png`` and so on.

    What cannot be read is told on stderr and left out.

    Returns:
        How many images were left out, and the file; None where the whole shard cannot be read.

    Raises:
        UserError: it cannot be written.
    """
    place, size, file = shards.url(number), int(shards.sizes[number]), out / shards.names[number]
    failed, draft = 0, file.with_name(f".{file.name}.part")
    try:
        path, members = shards.members(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(draft, "wb") as stream, tar_writer(stream) as tar:
            for key, where in members.items():
                try:
                    image = read_image(place, size, key, path, where).pixels
                except Unreachable:
                    raise
                except UserError as error:
                    print(f"{printable(str(error))}; skipped", file=sys.stderr)
                    failed += 1
                    continue
                pictures = masks.draw(image, masks.kinds)
                tar.write({"__key__": key} | {f"{k[1:]}.png".lstrip("."): as_png(p) for k, p in pictures.items()})
        os.replace(draft, file)
    except Unreachable as error:
        print(f"{printable(str(error))}; skipped", file=sys.stderr)
        return int(shards.counts[number]), None
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({reason(error)}): choose another --out") from None
    finally:
        draft.unlink(missing_ok=True)
    return failed, file


def as_png(picture: Any) -> bytes:
    """Return the bytes of a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
