"""Write the HTML report of one run, or of several side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from semiseg.errors import UserError
from semiseg.tools.report.run_files import read_run
from semiseg.visualization.run_pictures import LoadedRun

TITLE_SUFFIX = " – semiseg</title>".encode()  # as in report.html.jinja
TITLE_BYTES = 2**16  # The title is within the first bytes of a page.


def write_report(
    run_dirs: Sequence[Path], out: Path | None = None, load_run: Callable[[Path], LoadedRun] | None = None
) -> Path:
    """Write the page of one run, or the page and the picture that compare several, and return the page's path.

    Args:
        run_dirs: Run directories. Files that a run lacks are left out of the page.
        out: The page, or a directory for it. Default: ``RUN/report.html`` for one run, ``report.html`` next to the
            first run for several. The pictures of several runs, ``pictures.png`` and ``plots/``, are next to the page.
        load_run: Opens a run for the pictures of several runs; without it the page has no pictures.

    Raises:
        UserError: No run is given, a directory is not a run, or the page cannot be written.
    """
    # matplotlib takes a second to import; `semiseg train` must not wait for it.
    from semiseg.tools.report.html_page import render, write
    from semiseg.tools.report.multi_run_page import multi_run_page
    from semiseg.tools.report.run_page import run_page

    if not run_dirs:
        raise UserError("no run to report on", fix="give at least one run directory")
    runs = [read_run(Path(path)) for path in run_dirs]
    if out is None:
        out = (runs[0].path if len(runs) == 1 else runs[0].path.resolve().parent) / "report.html"
    elif out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        out = out / "report.html"
    if out not in [run.path / "report.html" for run in runs]:
        check_overwrite(out)
    page = run_page(runs[0]) if len(runs) == 1 else multi_run_page(runs, out.parent, load_run)
    write(out, render(page).encode("utf-8", "backslashreplace"))  # Names of directories may contain other bytes.
    return out


def check_overwrite(out: Path) -> None:
    """Raise UserError if ``out`` is an existing file that semiseg did not write."""
    if out.is_file():
        with open(out, "rb") as file:
            if TITLE_SUFFIX not in file.read(TITLE_BYTES):
                raise UserError("exists and is not a report of semiseg", path=out, fix="choose another --out")
