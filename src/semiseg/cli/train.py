"""``semiseg train``: its options depend on the method, the preset and the configuration file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from semiseg.cli.option_parsing import Argv, check_options, is_rank_zero, parse
from semiseg.errors import UserError

if TYPE_CHECKING:
    from semiseg.config import TrainConfig

TIME = "Time budget of the run, such as 20m or 1h30m. Default: 20 minutes on a CPU, an hour on a GPU."
PLAN_ONLY = "Print the plan and stop."


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


NETWORK = ("init", "architecture", "encoder")
EARLY = tuple(f"--{name}" for name in ("method", "preset", "config", "resume", "steps", "epochs", *NETWORK))


def train(argv: Argv) -> None:
    """Train a model."""
    from semiseg.config import TrainConfig
    from semiseg.training.resolve_config import resolve
    from semiseg.workflows.train import train as train_model

    early = early_options(argv)
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
    given: dict[str, Any] = {name: early[name] for name in ("method", *NETWORK) if name in early}
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
            ("time", Annotated[str | None, tyro.conf.arg(help=TIME)], field(default=None)),
            ("plan_only", Annotated[bool, tyro.conf.arg(help=PLAN_ONLY)], field(default=False)),
        ],
    )
    arguments.__doc__ = "Train a model. The options of the method follow those of every run; see also semiseg methods."
    check_options(argv, [f.name for kind in (config, options, arguments) for f in fields(kind)], "semiseg train")
    parsed = parse(arguments, argv, "semiseg train")
    values = given_values(argv, parsed) | given
    start(values, parsed, replace(parsed.settings, method=config.method))  # --method may be an alias


def given_values(argv: Argv, parsed: Any) -> dict[str, Any]:
    """Return the options of the run and of its method that ``argv`` gives, by name."""
    options = (argument.partition("=")[0] for argument in argv if argument.startswith("--"))
    names = {option.removeprefix("--").replace("-", "_").removeprefix("no_") for option in options}
    if "tensorboard" in names:
        names.add("tracker")  # TrainConfig replaces the deprecated option
    values = vars(parsed.settings) | vars(parsed.method_options)
    return {name: value for name, value in values.items() if name in names}


def start(values: dict[str, Any], parsed: Any, settings: TrainConfig) -> None:
    """Train the run, planned unless a file gives its length, or print the plan."""
    from semiseg.tools.planning.plan_text import format_plan
    from semiseg.training.resolve_config import given_options
    from semiseg.workflows.train import is_planned, make_plan, train_planned, train_with

    if parsed.time is None and not parsed.plan_only and not is_planned(parsed.config):
        print_outcome(train_with(settings, parsed.method_options, parsed.out))
        return
    options = given_options(values, parsed.preset, parsed.config)
    if parsed.time is not None and not values.keys() & {"steps", "epochs"}:
        options = {name: value for name, value in options.items() if name not in ("steps", "epochs")}  # of the file
    if parsed.plan_only:
        print("\n".join(format_plan(make_plan(options, parsed.time).to_json())))
        return
    print_outcome(train_planned(options, parsed.out, parsed.time))


def early_options(argv: Argv) -> dict[str, str]:
    """Return the options that determine the other options, before all are parsed."""
    found = {}
    for index, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in EARLY:
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
