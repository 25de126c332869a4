"""``semiseg check``: is the data fit for training?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import tyro

from semiseg.cli.option_parsing import Argv, parse
from semiseg.errors import UserError


@dataclass
class Check:
    """Check a data set before it is trained on: exit status 0 if it is usable (warnings allowed), 2 if not."""

    data: tyro.conf.Positional[str]
    """Data set: a directory, or shapes[:images=N,size=S,...]."""
    json: bool = False
    """Print one JSON object and nothing else."""
    html: str | None = None
    """Write a page that says the same, with pictures, to a new file."""


def check(argv: Argv) -> None:
    """Look through data before the first training."""
    from semiseg.tools.checking import check as run  # api would load what trains, which takes longer than the check
    from semiseg.tools.checking import in_words
    from semiseg.tools.checking.finding import counted

    a: Check = parse(Check, argv, "semiseg check")
    with progress_bar() as progress:
        checked = run(a.data, a.html, progress)
    if a.json:
        print(json.dumps(checked.to_json()))
    else:
        print(in_words(checked, _block()))
        if a.html:
            print(f"\npage: {a.html}")
    if not checked.usable:
        problems = counted(len(checked.of("problem")), "problem")
        raise UserError(f"{a.data}: it cannot be trained on; correct what is listed ({problems})")


@contextmanager
def progress_bar() -> Iterator[Callable[[int, int], None] | None]:
    """Show on a terminal how far the reading has come; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("reading images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _block() -> str:
    """Return what bars are made of: a full block where the terminal can show it."""
    try:
        "█…".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#"
    return "█"
