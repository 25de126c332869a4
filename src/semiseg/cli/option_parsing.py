"""From words on the command line to a dataclass; what is wrong with them, in one line."""

from __future__ import annotations

import contextlib
import difflib
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from semiseg.errors import UserError

Argv = Sequence[str]


def parse(kind: Any, argv: Argv, prog: str) -> Any:
    """Parse ``argv`` into ``kind``, a dataclass.

    Raises:
        UserError: what is wrong, in one line.
    """
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=list(argv), prog=prog, description=kind.__doc__)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{what_is_wrong(complaint.getvalue())} ({prog} --help tells the options)") from None
    except ValueError as error:  # what an option's dataclass says of its values
        raise UserError(f"{error} ({prog} --help tells the options)") from None


def what_is_wrong(complaint: str) -> str:
    """Return in one line what a complaint of tyro's says.

    It draws a box, of other characters where the terminal has no UTF-8: a title, what is wrong, in many words for what
    it tried, a rule, where to read more.
    """
    lines = [line.strip("│╭╮╰╯ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", complaint).splitlines()]
    inside = itertools.dropwhile(lambda line: re.fullmatch("[─-]*", line), lines[1:])
    told = itertools.takewhile(lambda line: not re.fullmatch("[─-]{3,}|Got errors:", line), inside)
    return " ".join(" ".join(told).split())


def check_options(argv: Argv, names: list[str], prog: str) -> None:
    """Raise UserError for the first option that is none of ``names``, with the closest one."""
    for argument in argv:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and name.removeprefix("no_") not in (*names, "help"):
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean --{close[0].replace('_', '-')}?" if close else f"{prog} --help tells the options"
            raise UserError(f"unknown option --{name.replace('_', '-')}: {hint}")


def no_arguments(text: str) -> type:
    """Return an empty dataclass that carries a help text."""
    return dataclass(type("NoArguments", (), {"__doc__": text}))


def is_first_process() -> bool:
    """Whether this is the process that tells, of those that Fabric, torchrun or SLURM has started."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return not rank_zero_only.rank
