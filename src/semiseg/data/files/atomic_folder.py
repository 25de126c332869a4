"""Folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semiseg.errors import UserError


def is_free(path: Path) -> bool:
    """Tell whether a folder may be made there: nothing is there, or an empty folder."""
    return bool(path.name) and (not path.exists() or (path.is_dir() and not any(path.iterdir())))


@contextmanager
def new_folder(path: Path, *below: str) -> Iterator[Path]:
    """Give a folder beside ``path`` to fill, with folders below it, and rename it into its place at the end.

    After a fault there is nothing, or the whole.

    Raises:
        UserError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.mkdir(parents=True)
        for name in below:
            (draft / name).mkdir()
        yield draft
        os.replace(draft, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}): choose another --out") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
