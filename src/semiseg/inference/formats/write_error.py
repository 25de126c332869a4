"""The error of a prediction that cannot be written, which stops ``predict``, unlike an image that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from semiseg.errors import UserError, os_error


class WriteError(UserError):
    """A file cannot be written."""


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the suffix of ``path``, and rename it to ``path`` unless the block raises.

    Raises:
        WriteError: The block raises OSError.
    """
    draft = path.with_name(f".{os.getpid()}.{abs(hash(path.name))}{path.suffix}")  # short: the name may be the longest
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield draft
        os.replace(draft, path)
    except OSError as error:
        known = os_error(error, "cannot be written", path, "choose another --out or rename the image")
        raise WriteError(known.problem, path=path, fix=known.fix) from None
    finally:
        draft.unlink(missing_ok=True)
