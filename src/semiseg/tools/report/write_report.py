"""Where a report goes, and which of the two pages it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from semiseg.errors import UserError
from semiseg.tools.report.run_files import read_run
from semiseg.visualization.mask_pictures import LoadedRun

OURS = " – semiseg</title>".encode()  # as in the template
HEAD = 2**16  # bytes, within which a page's title ends


def write_report(
    run_dirs: Sequence[Path], out: Path | None = None, load_run: Callable[[Path], LoadedRun] | None = None
) -> Path:
    """Write the page about one run, or the page and the picture that compare several, and return the page's path.

    Args:
        run_dirs: run directories. What is missing in them is missing on the page.
        out: the page, or a directory for it. One run: ``RUN/report.html`` where absent. Several: ``report.html``
            beside the first run; ``pictures.png`` and ``plots/`` go beside the page.
        load_run: opens a run for the picture of several; without it there is none.

    Raises:
        UserError: no run given, not a run, runs of different classes, or a place that cannot be written.
    """
    # The plots' library takes a second to import, and training imports this package only to draw samples.
    from semiseg.tools.report.comparison_report import comparison_page
    from semiseg.tools.report.html_page import render, write
    from semiseg.tools.report.run_report import run_page

    if not run_dirs:
        raise UserError("no run to report on: give one run directory or more")
    files = [read_run(Path(path)) for path in run_dirs]
    if out is None:
        out = (files[0].path if len(files) == 1 else files[0].path.resolve().parent) / "report.html"
    elif out.is_dir() or out.suffix.lower() not in (".html", ".htm"):
        out = out / "report.html"
    if out not in [run.path / "report.html" for run in files]:  # that place is the run's own
        refuse_foreign(out)
    page = run_page(files[0]) if len(files) == 1 else comparison_page(files, out.parent, load_run)
    write(out, render(page).encode("utf-8", "backslashreplace"))  # a run's folder may have a name that is no UTF-8
    return out


def refuse_foreign(out: Path) -> None:
    """Raise UserError where a file is there that is no page of ours: a report is written anew, notes are not."""
    if out.is_file():
        with open(out, "rb") as file:
            if OURS not in file.read(HEAD):
                raise UserError(f"{out} exists and is no report of semiseg: choose another place by --out")
