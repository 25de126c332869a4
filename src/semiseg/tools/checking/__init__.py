"""What somebody runs before the first training: is the data fit for it, and what should be looked at?"""

from __future__ import annotations

import os
from pathlib import Path

from semiseg.errors import UserError
from semiseg.tools.checking.check_text import in_words
from semiseg.tools.checking.examine import DataCheck, examine
from semiseg.tools.checking.finding import Finding
from semiseg.tools.checking.mask_findings import ClassCount
from semiseg.tools.checking.scan import Progress

__all__ = ["ClassCount", "DataCheck", "Finding", "check", "in_words"]


def check(data: str | Path, html: str | Path | None = None, progress: Progress | None = None) -> DataCheck:
    """Check a data set before it is trained on; return what was found, ``usable`` or not.

    Whatever is wrong with the data is a finding and raises nothing, also where ``open_dataset`` would refuse them.

    Args:
        data: a directory, or ``shapes[:KEY=VALUE,...]``.
        html: a new file for a page that says the same, with pictures.
        progress: is told how many images have been read, of how many.

    Raises:
        UserError: the page's file exists or cannot be written.
    """
    page = Path(html) if html is not None else None
    if page is not None and (page.exists() or page.is_symlink()):
        raise UserError(f"{page} exists: nothing is overwritten: choose another --html")
    if page is not None and not can_be_made(page):  # told before everything is read
        raise UserError(f"{page}: cannot be written: choose another --html")
    checked, material = examine(data, progress)
    if page is not None:
        from semiseg.tools.checking.check_page import write_page  # the page's library takes a second to import

        write_page(page, checked, material)
    return checked


def can_be_made(file: Path) -> bool:
    """Tell whether a file, and the folders above that are not there yet, may be written."""
    return os.access(next(folder for folder in file.absolute().parents if folder.exists()), os.W_OK)
