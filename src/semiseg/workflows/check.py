"""``check``: validate a data set before training."""

from __future__ import annotations

import os
from pathlib import Path

from semiseg.errors import UserError
from semiseg.tools.checking import DataCheck, Progress, check_data


def check(data: str | Path, html: str | Path | None = None, progress: Progress | None = None) -> DataCheck:
    """Check a data set before training and return the findings.

    Errors in the data become findings, including those with which ``open_dataset`` fails.

    Args:
        data: A directory, or ``shapes[:KEY=VALUE,...]``.
        html: A new file for a page with the findings and pictures.
        progress: Called with the number of images read and their total number.

    Raises:
        UserError: ``html`` exists or cannot be written.

    Example:
        >>> checked = semiseg.check("flowers")
        >>> checked.usable, checked.findings, checked.command  # doctest: +SKIP
    """
    page = None if html is None else Path(html)
    if page is not None:
        _require_new_file(page)  # before the scan, which may take minutes
    checked, samples = check_data(data, progress)
    if page is not None:
        from semiseg.tools.checking.check_page import write_page  # imports matplotlib, which takes a second

        write_page(page, checked, samples)
    return checked


def _require_new_file(path: Path) -> None:
    """Raise UserError if the file exists, or if its directory cannot be created or written."""
    if path.exists() or path.is_symlink():
        raise UserError("already exists", path=path, fix="choose another --html")
    if not os.access(next(parent for parent in path.absolute().parents if parent.exists()), os.W_OK):
        raise UserError("cannot be written", path=path, fix="choose another --html")
