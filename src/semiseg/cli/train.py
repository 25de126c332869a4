"""``semiseg train``: which options there are depends on the method, the preset and the file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from semiseg.cli.option_parsing import Argv, check_options, is_first_process, parse
from semiseg.errors import UserError


@dataclass
class Resume:
    """Go on with a run; everything but its place comes from the run."""

    resume: str
    """Run to go on with."""
    devices: int | Literal["auto"] | None = None
    """Number of devices (processes) from now on; the run's where absent."""
    nodes: int | None = None
    """Number of machines from now on; the run's where absent."""


def train(argv: Argv) -> None:
    """Train a model."""
    from semiseg.config import TrainConfig
    from semiseg.training.resolve_config import resolve
    from semiseg.workflows.train import train as train_model
    from semiseg.workflows.train import train_with

    early, given = early_options(argv), {}
    if "resume" in early:
        names = {argument.partition("=")[0] for argument in argv if argument.startswith("--")}
        if names - {"--resume", "--devices", "--nodes", "--help"}:
            raise UserError("--resume takes everything but --devices and --nodes from the run: leave other options out")
        tell(train_model(**vars(parse(Resume, argv, "semiseg train"))))
        return
    if "method" in early:
        given["method"] = early["method"]
    config, options = resolve(given, early.get("preset"), early.get("config"))
    if "steps" in early:  # it wins over the file's length, in whichever way that is given
        config = replace(config, epochs=None)
    if "epochs" in early:
        config = replace(config, steps=None)
    own = type(options)
    arguments = make_dataclass(
        "Arguments",
        [
            ("settings", Annotated[TrainConfig, tyro.conf.arg(name="")], field(default=config)),
            ("method_options", Annotated[own, tyro.conf.arg(name="")], field(default=options)),
            ("out", Annotated[str | None, tyro.conf.arg(help="Run directory to make.")], field(default=None)),
            ("preset", Annotated[str | None, tyro.conf.arg(help="Named set of options: small.")], field(default=None)),
            ("config", Annotated[str | None, tyro.conf.arg(help="YAML file of options.")], field(default=None)),
            ("resume", Annotated[str | None, tyro.conf.arg(help="Run to go on with.")], field(default=None)),
        ],
    )
    arguments.__doc__ = "Train a model. The options of the method follow those of every run (see semiseg methods)."
    check_options(argv, [f.name for kind in (config, options, arguments) for f in fields(kind)], "semiseg train")
    parsed = parse(arguments, argv, "semiseg train")
    settings = replace(parsed.settings, method=config.method)  # an alias stands for its method
    tell(train_with(settings, parsed.method_options, parsed.out))


def early_options(argv: Argv) -> dict[str, str]:
    """Find the options that decide which other options there are, before all are parsed."""
    found = {}
    for index, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--method", "--preset", "--config", "--resume", "--steps", "--epochs"):
            if not equals and index + 1 == len(argv):
                raise UserError(f"{name} needs a value")
            found[name[2:]] = value if equals else argv[index + 1]
    return found


def tell(run: Path) -> None:
    """Print the run's directory on stdout; on stderr how well it did, and what to do with it; on one process only."""
    from semiseg.tools.report.run_files import result_line

    if not is_first_process():
        return
    if text := result_line(run):
        print(text, file=sys.stderr)
    print(f"report: {run / 'report.html'}", file=sys.stderr)
    print(f"next: semiseg evaluate {run}, or semiseg predict {run} PHOTOS --out DIR", file=sys.stderr)
    print(run)
