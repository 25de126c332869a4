"""``semiseg check``: validate a data set before training."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tyro

from semiseg.cli.option_parsing import Argv, parse
from semiseg.errors import UserError

if TYPE_CHECKING:
    from semiseg.tools.checking import DataCheck


@dataclass
class Check:
    """Check a data set before training. Exit status 0 if it is usable (warnings allowed), 2 if not."""

    data: tyro.conf.Positional[str]
    """Data set: a directory, or shapes[:images=N,size=S,...]."""
    json: bool = False
    """Print one JSON object and nothing else."""
    html: str | None = None
    """Also write the findings, with pictures, to a new HTML file."""


def check(argv: Argv) -> None:
    """Check a data set before training."""
    from semiseg.workflows.check import check as run

    a: Check = parse(Check, argv, "semiseg check")
    with progress_bar() as progress:
        checked = run(a.data, a.html, progress)
    print_check(checked, a.json, a.html)


def print_check(checked: DataCheck, as_json: bool = False, page: str | None = None) -> None:
    """Print the findings. Raises UserError if the data set is not usable."""
    from semiseg.tools.checking import format_check
    from semiseg.tools.checking.finding import format_count

    if as_json:
        print(json.dumps(checked.to_json()))
    else:
        print(format_check(checked, _bar_character()))
        if page:
            print(f"\npage: {page}")
    if not checked.usable:
        problems = format_count(len(checked.with_severity("problem")), "problem")
        raise UserError(f"not usable for training ({problems})", path=checked.data, fix="fix the problems listed above")


@contextmanager
def progress_bar(text: str = "reading images") -> Iterator[Callable[[int, int], None] | None]:
    """Show a progress bar if stderr is a terminal. Yield the function that updates it, or None."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _bar_character() -> str:
    """Return a full block, or # if the encoding of stdout does not support it."""
    try:
        "█…".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#"
    return "█"
