"""Folders that are created completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semiseg.errors import UserError, os_error


def is_free(path: Path) -> bool:
    """Return whether ``path`` does not exist or is an empty folder."""
    return bool(path.name) and (not path.exists() or (path.is_dir() and not any(path.iterdir())))


def require_free(path: Path) -> None:
    """Raise UserError, naming ``--out``, unless ``path`` does not exist or is an empty folder."""
    if not is_free(path):
        raise UserError("exists and is not empty", path=path, fix="choose another --out")


@contextmanager
def new_folder(path: Path, *subfolders: str) -> Iterator[Path]:
    """Yield a temporary folder with the given subfolders; rename it to ``path`` at the end.

    If the block raises, the temporary folder is removed and ``path`` is not created.

    Raises:
        UserError: The folder cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        draft.mkdir(parents=True)
        for name in subfolders:
            (draft / name).mkdir()
        yield draft
        os.replace(draft, path)
    except OSError as error:
        raise os_error(error, "cannot be written", path, "choose another --out") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
