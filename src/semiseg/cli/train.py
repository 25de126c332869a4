"""``semiseg train``: its options depend on the method, the preset and the configuration file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from semiseg.cli.option_parsing import Argv, check_options, is_rank_zero, parse
from semiseg.errors import UserError


@dataclass
class Resume:
    """Resume a run. All other options come from the run."""

    resume: str
    """Run to resume."""
    devices: int | Literal["auto"] | None = None
    """Number of devices (processes); default: that of the run."""
    nodes: int | None = None
    """Number of machines; default: that of the run."""
    steps: int | None = None
    """A larger number of steps, for a run that is finished or not."""
    data: str | None = None
    """Data set of the run if it has moved."""
    unlabeled: str | None = None
    """Folder of unlabeled photographs of the run if it has moved."""


def train(argv: Argv) -> None:
    """Train a model."""
    from semiseg.config import TrainConfig
    from semiseg.training.resolve_config import resolve
    from semiseg.workflows.train import train as train_model
    from semiseg.workflows.train import train_with

    early, given = early_options(argv), {}
    if "resume" in early:
        names = {argument.partition("=")[0] for argument in argv if argument.startswith("--")}
        allowed = [f"--{option.name}" for option in fields(Resume)]
        if names - {*allowed, "--help"}:
            problem = f"can be combined only with {', '.join(allowed[1:])}"
            raise UserError(
                problem, option="resume", fix="remove the other options, or start a new run with --init RUN"
            )
        print_outcome(train_model(**vars(parse(Resume, argv, "semiseg train"))))
        return
    if "method" in early:
        given["method"] = early["method"]
    config, options = resolve(given, early.get("preset"), early.get("config"))
    if "steps" in early:  # overrides epochs in the file
        config = replace(config, epochs=None)
    if "epochs" in early:
        config = replace(config, steps=None)
    own = type(options)
    arguments = make_dataclass(
        "Arguments",
        [
            ("settings", Annotated[TrainConfig, tyro.conf.arg(name="")], field(default=config)),
            ("method_options", Annotated[own, tyro.conf.arg(name="")], field(default=options)),
            ("out", Annotated[str | None, tyro.conf.arg(help="Run directory to create.")], field(default=None)),
            ("preset", Annotated[str | None, tyro.conf.arg(help="Named set of options: small.")], field(default=None)),
            ("config", Annotated[str | None, tyro.conf.arg(help="YAML file of options.")], field(default=None)),
            ("resume", Annotated[str | None, tyro.conf.arg(help="Run to resume.")], field(default=None)),
        ],
    )
    arguments.__doc__ = "Train a model. The options of the method follow those of every run; see also semiseg methods."
    check_options(argv, [f.name for kind in (config, options, arguments) for f in fields(kind)], "semiseg train")
    parsed = parse(arguments, argv, "semiseg train")
    settings = replace(parsed.settings, method=config.method)  # --method may be an alias
    print_outcome(train_with(settings, parsed.method_options, parsed.out))


def early_options(argv: Argv) -> dict[str, str]:
    """Return the options that determine the other options, before all are parsed."""
    found = {}
    for index, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--method", "--preset", "--config", "--resume", "--steps", "--epochs"):
            if not equals and index + 1 == len(argv):
                raise UserError("its value is missing", option=name, fix=f"write {name} VALUE")
            found[name[2:]] = value if equals else argv[index + 1]
    return found


def print_outcome(run: Path) -> None:
    """Print the run directory on stdout and the result and next steps on stderr; only rank 0 prints."""
    from semiseg.tools.report.run_files import result_line

    if not is_rank_zero():
        return
    if text := result_line(run):
        print(text, file=sys.stderr)
    print(f"report: {run / 'report.html'}", file=sys.stderr)
    has_test = (run / "splits" / "test.txt").is_file() and (run / "splits" / "test.txt").stat().st_size > 0
    split = "" if has_test else " --split val"
    print(f"next: semiseg evaluate {run}{split}, or semiseg predict {run} PHOTOS --out DIR", file=sys.stderr)
    print(run)
