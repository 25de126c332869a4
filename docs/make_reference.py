"""Writes docs/reference.md, every option of every command, from the sources: python docs/make_reference.py."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args

import semiseg.cli
from semiseg.cli import COMMANDS
from semiseg.config import Device, TrainConfig
from semiseg.methods import ALIASES, METHODS, VARIANTS
from semiseg.ops.ema import BufferMode
from semiseg.ops.pseudo_labels import ThresholdMode

PAGE = Path(__file__).with_name("reference.md")
CLI = Path(semiseg.cli.__file__).parent
NAMED: dict[str, Any] = {"ThresholdMode": ThresholdMode, "Device": Device, "BufferMode": BufferMode}
TRAIN = """Beside the options of every run and of the method, below:

| option | |
|---|---|
| `--out` | Run directory to make (`runs/DATA-METHOD`). |
| `--preset` | Named set of options: `small`. |
| `--config` | YAML file of options; the command line wins over it. |
| `--resume` | Run to go on with, instead of all other options but `--devices` and `--nodes`. |
"""
HEAD = """# Reference: every option

Made by `python docs/make_reference.py`; a test keeps it true. At the terminal: `semiseg COMMAND --help`. Options of
`semiseg train` are keys of a `--config` file too, and arguments of `semiseg.train`, with `_` for `-`.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page."""
    parts = [HEAD, "## Commands\n"]
    of_command = {node.name.lower(): node for path in sorted(CLI.glob("*.py")) for node in classes(path.read_text())}
    for name, function in COMMANDS.items():
        parts.append(f"### `semiseg {name}`\n\n{(function.__doc__ or '').strip()}\n")
        if name in of_command:
            parts.append(table(of_command[name]))
        if name == "train":
            parts.append(TRAIN)
    parts += ["## Options of every run: `semiseg train`\n", table(class_of(TrainConfig))]
    parts.append("## Options of each method: `semiseg train --method NAME`\n")
    for name, method in METHODS.items():
        aliases = [alias for alias, target in ALIASES.items() if target == name]
        known_as = f" (`{'`, `'.join(aliases)}`)" if aliases else ""
        parts.append(f"### `{name}`{known_as}\n\n{first_line(method)} [More](methods/{name}.md)\n")
        parts.append(table(*(class_of(kind) for kind in reversed(method.Options.__mro__) if is_dataclass(kind))))
    parts.append("### Variants\n")
    for name, (target, options) in VARIANTS.items():
        given = " ".join(f"--{option.replace('_', '-')} {value}" for option, value in options.items())
        parts.append(f"- `{name}`: `{target}` with `{given}`\n")
    return "\n".join(parts)


def first_line(method: type) -> str:
    """Return what a method's class says of itself in a sentence."""
    line = (method.__doc__ or "").strip().splitlines()[0]
    return line.partition("; see the module")[0].removesuffix(".") + "."


def classes(source: str) -> list[ast.ClassDef]:
    """Return the classes of a module."""
    return [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]


def class_of(kind: type) -> ast.ClassDef:
    """Return the definition of a class."""
    return classes(textwrap.dedent(inspect.getsource(kind)))[0]


def table(*nodes: ast.ClassDef) -> str:
    """Return a Markdown table of the fields of a dataclass and its bases: option, type, default and docstring.

    Args:
        nodes: The class after its bases. A field that is declared again keeps its position.
    """
    rows = {}
    for node in nodes:
        for field, below in zip(node.body, [*node.body[1:], None], strict=True):
            # "settings" holds the options of every run, which have a table of their own.
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and field.target.id != "settings"
            ):
                rows[field.target.id] = row(field, below)
    return "\n".join(["| option | values | default | |", "|---|---|---|---|", *rows.values()]) + "\n"


def row(field: ast.AnnAssign, below: ast.stmt | None) -> str:
    """Return one row of the table; ``below`` is the statement after the field, its docstring."""
    assert isinstance(field.target, ast.Name)
    doc = ast.literal_eval(below.value) if isinstance(below, ast.Expr) else ""
    kind = ast.unparse(field.annotation).replace("ClassVar", "")
    positional = "Positional" in kind
    name = field.target.id.upper() if positional else f"--{field.target.id.replace('_', '-')}"
    default = "" if field.value is None else ast.unparse(field.value).strip("'\"").removeprefix("None")
    cells = [f"`{name}`", f"`{values(kind)}`", f"`{default}`" if default else "", " ".join(doc.split())]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def values(kind: str) -> str:
    """Return a type as a person reads it."""
    kind = kind.removeprefix("tyro.conf.Positional[").removesuffix("]") if "Positional" in kind else kind
    kind = re.split(r", (?:tyro\.conf|Range\(|[A-Z_]+\])", kind.removeprefix("Annotated["))[0].replace(" | None", "")
    kind = re.sub(r"Literal\[([^]]*)\]?", lambda match: match[1].replace("'", "").replace(", ", "|"), kind)
    if kind in NAMED:
        return "|".join(get_args(NAMED[kind]))
    return kind.replace(" | ", "|").replace("tuple[str, ...]", "str ...").replace("tuple[str, ...", "str ...")


if __name__ == "__main__":
    main()
