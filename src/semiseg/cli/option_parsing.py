"""Parse command-line arguments into a dataclass and report errors in one line."""

from __future__ import annotations

import contextlib
import difflib
import io
import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tyro

from semiseg.errors import UserError

Argv = Sequence[str]
MEANT = {
    **dict.fromkeys(("class_weights", "class_weight", "loss_weights"), "class_balance"),
    **dict.fromkeys(("learning_rate", "base_lr"), "lr"),
    **dict.fromkeys(("iterations", "iters", "max_steps", "max_iters"), "steps"),
    **dict.fromkeys(("pretrained", "finetune", "checkpoint", "load"), "init"),
}
"""Options of other programs and the options of semiseg that do the same."""
NOT_A_NUMBER = re.compile(r"Error parsing (\S+): (invalid literal for int.*|could not convert string to float): (\S+)")
"""tyro's message for a value that ``int`` or ``float`` rejects."""


REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.primitive_rule
def _none(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    """Show options that may be None as ``None|STR`` instead of ``{None}|STR``."""
    if info.type is not type(None):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="None",
        choices=("None",),
        instance_from_str=lambda _: None,
        is_instance=lambda value: value is None,
        str_from_instance=lambda _: ["None"],
    )


def parse(kind: Any, argv: Argv, prog: str) -> Any:
    """Parse ``argv`` into ``kind``, a dataclass.

    Raises:
        UserError: The arguments are invalid.
    """
    output = io.StringIO()
    fix = f"see {prog} --help"
    try:
        with contextlib.redirect_stderr(output):
            return tyro.cli(kind, args=list(argv), prog=prog, description=kind.__doc__, registry=REGISTRY)
    except SystemExit as stop:
        if not stop.code:
            raise
        message = error_in_box(output.getvalue())
        if found := NOT_A_NUMBER.fullmatch(message):
            option, kind, value = found.groups()
            number = "an integer" if kind.startswith("invalid literal for int") else "a number"
            raise UserError(f"{value} is not {number}", option=option, fix=f"give {number}") from None
        raise UserError(message, fix=fix) from None
    except ValueError as error:  # from __post_init__ of a method's options
        raise UserError(str(error), fix=fix) from None


def error_in_box(output: str) -> str:
    """Return the error message inside the box that tyro prints.

    tyro has no public API for errors as data (``tyro._errors.on_parse_error`` is private and newer than tyro 1.0). The
    box consists of a title, the message, the values that were tried, a rule, and a pointer to the help. Its border
    depends on the encoding of the terminal.
    """
    lines = [line.strip("│╭╮╰╯ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()]
    body = itertools.dropwhile(lambda line: re.fullmatch("[─-]*", line), lines[1:])
    message = itertools.takewhile(lambda line: not re.fullmatch("[─-]{3,}|Got errors:", line), body)
    return " ".join(" ".join(message).split()).removesuffix(".")


def check_options(argv: Argv, names: list[str], prog: str) -> None:
    """Raise UserError for the first option that is not in ``names``; suggest the closest name."""
    for argument in argv:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and name.removeprefix("no_") not in (*names, "help"):
            problem = f"unknown option --{name.replace('_', '-')}"
            if close := [n for n in (MEANT.get(name),) if n in names] or difflib.get_close_matches(name, names, n=1):
                raise UserError(f"{problem}: did you mean --{close[0].replace('_', '-')}?")
            raise UserError(problem, fix=f"see {prog} --help")


def no_arguments(help_text: str) -> type:
    """Return an empty dataclass with a help text, for commands without options."""
    return dataclass(type("NoArguments", (), {"__doc__": help_text}))


def is_rank_zero() -> bool:
    """Return whether this process is rank 0 of those started by Fabric, torchrun or SLURM."""
    module = sys.modules.get("lightning_fabric.utilities.rank_zero")  # not imported for a single process
    return module is None or not module.rank_zero_only.rank
