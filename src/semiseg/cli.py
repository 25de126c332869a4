"""The command line: one function a command. Heavy imports wait until a command runs, so that --help is instant."""

from __future__ import annotations

import contextlib
import difflib
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from semiseg import __version__
from semiseg.errors import ToldElsewhere, UserError, lookup

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


def train(argv: Argv) -> None:
    """Train a model."""
    from semiseg import api
    from semiseg.config import TrainConfig
    from semiseg.methods import METHODS

    early, given = early_options(argv), {}
    if "resume" in early:
        if len(argv) > 2 or (len(argv) == 2 and argv[0] != "--resume"):
            raise UserError("--resume takes everything from the run: leave the other options out")
        print_once(api.train(resume=early["resume"]))
        return
    if "method" in early:
        given["method"] = early["method"]
    config, options = api.resolve(given, early.get("preset"), early.get("config"))
    own = METHODS[config.method].Options
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
    print_once(api.train_with(settings, parsed.method_options, parsed.out))


def check_options(argv: Argv, names: list[str], prog: str) -> None:
    """Raise UserError for the first option that is none of ``names``, with the closest one."""
    for argument in argv:
        name = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and name.removeprefix("no_") not in (*names, "help"):
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean --{close[0].replace('_', '-')}?" if close else f"{prog} --help tells the options"
            raise UserError(f"unknown option --{name.replace('_', '-')}: {hint}")


def print_once(result: object) -> None:
    """Print on the first of a run's processes only."""
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
        print(result)


def early_options(argv: Argv) -> dict[str, str]:
    """Find the options that decide which other options there are, before all are parsed."""
    found = {}
    for index, argument in enumerate(argv):
        name, equals, value = argument.partition("=")
        if name in ("--method", "--preset", "--config", "--resume"):
            if not equals and index + 1 == len(argv):
                raise UserError(f"{name} needs a value")
            found[name[2:]] = value if equals else argv[index + 1]
    return found


@dataclass
class Evaluate:
    """Evaluate a trained model, all of its networks, exactly."""

    run: tyro.conf.Positional[str]
    """Run directory, or checkpoint file."""
    data: str | None = None
    """Data set; that of the run where absent."""
    split: Literal["test", "val", "labeled"] = "test"
    """List of images; labeled: those it learned from, to see how well it knows them."""
    network: str | None = None
    """Network whose figures come first: student, teacher1, ..., teachers-average."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""
    sliding: bool = False
    """Use a sliding window of the training's crop size."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    json: bool = False
    """Print one JSON object and nothing else."""


def evaluate(argv: Argv) -> None:
    """Measure a trained model on a list of images."""
    from semiseg import api

    a: Evaluate = parse(Evaluate, argv, "semiseg evaluate")
    result = api.evaluate(
        a.run, a.data, a.split, network=a.network, checkpoint=a.checkpoint, sliding=a.sliding, accelerator=a.accelerator
    )
    if a.json:
        print(json.dumps(result))
        return
    networks = result["networks"]
    width = max(map(len, result["iou"]), default=0)
    print(f"{a.split} IoU in percent, {a.checkpoint} checkpoint (step {result['step']})")
    print(" " * width, *(f"{name:>16}" for name in networks))
    for row in ("miou", "pixel_accuracy", *result["iou"]):
        values = [net[row] if row in net else net["iou"][row] for net in networks.values()]
        print(f"{row:<{width}}", *(f"{'-' if value is None else f'{value:.2f}':>16}" for value in values))


@dataclass
class Predict:
    """Write a mask, indexed with palette, at the image's own size, for every image."""

    run: tyro.conf.Positional[str]
    """Run directory, or checkpoint file."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, and directories of such."""
    out: str
    """Directory for the masks, OUT/<stem>.png."""
    network: str | None = None
    """Network to ask: student, teacher1, ..., teachers-average."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""
    overlay: bool = False
    """Write OUT/<stem>_overlay.png too."""
    confidence: bool = False
    """Write OUT/<stem>_confidence.png too: gray, 255 for certainty."""
    sliding: bool = False
    """Use a sliding window of the training's crop size."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""


def predict(argv: Argv) -> None:
    """Segment images with a trained model."""
    from semiseg import api

    a: Predict = parse(Predict, argv, "semiseg predict")
    options = {key: value for key, value in vars(a).items() if key not in ("run", "images", "out")}
    written = api.predict(a.run, a.images, a.out, **options)
    print(f"{len(written)} masks in {a.out}")


@dataclass
class Report:
    """Write the report of a run; of several: the page and the picture that compare them."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run directories."""
    out: str | None = None
    """HTML file; where absent, report.html in the run, or beside the first of several."""


def report(argv: Argv) -> None:
    """Write the report of one run, or compare several."""
    from semiseg import api

    a: Report = parse(Report, argv, "semiseg report")
    print(api.report(a.runs, a.out))


@dataclass
class Demo:
    """Train supervised and Dual Teacher on generated images, and compare: no data, no network, about five minutes."""

    out: str = "demo-out"
    """Directory to make."""
    seed: int = 0
    """Seed of everything."""
    json: bool = False
    """End with one line of JSON."""
    short: bool = False
    """Under a minute: shows that everything runs, and claims nothing."""


def demo(argv: Argv) -> None:
    """See it work on generated images, in about five minutes on two cores (with AVX-512; ten without)."""
    from semiseg.demo import run_demo

    a: Demo = parse(Demo, argv, "semiseg demo")
    result = run_demo(Path(a.out), seed=a.seed, short=a.short)
    if a.json:
        print(json.dumps(result))
        return
    label = "mIoU in percent on generated test images"
    print(f"\n{label}{' (--short: too few steps to mean anything)' if a.short else ''}")
    for name in ("supervised", "dual-teacher", "gain", "all-labels"):
        print(f"  {name:<14}{result[name]:6.1f}")
    print(f"report: {result['report']}")


def methods(argv: Argv) -> None:
    """List the training methods."""
    parse(no_arguments("List the training methods."), argv, "semiseg methods")
    from semiseg.config import to_mapping
    from semiseg.methods import ALIASES, METHODS

    for name, method in METHODS.items():
        alias = ", ".join(alias for alias, target in ALIASES.items() if target == name)
        print(f"{name}{f' ({alias})' if alias else ''}: {(method.__doc__ or '').splitlines()[0]}")
        for option, value in to_mapping(method.Options()).items():
            shown = " ".join(value) if isinstance(value, list) else value
            print(f"    --{option.replace('_', '-')} {shown}")


def networks(argv: Argv) -> None:
    """List architectures with their parameters."""
    parse(no_arguments("List networks and their parameters."), argv, "semiseg networks")
    from semiseg.networks import list_networks

    print(f"{'--architecture':<26}{'--encoder':<26}{'parameters':>12}{'encoder':>10}{'residual sites':>16}")
    for row in list_networks():
        whole, encoder = (f"{int(row[key]) / 1e6:.1f} M" for key in ("parameters", "encoder_parameters"))
        print(f"{row['architecture']:<26}{row['encoder']:<26}{whole:>12}{encoder:>10}{row['residual_sites']:>16}")


def datasets(argv: Argv) -> None:
    """List the forms of data that are read."""
    parse(no_arguments("List the forms of data that are read."), argv, "semiseg datasets")
    from semiseg.data import DATASETS

    for name, kind in DATASETS.items():
        print(f"{name}: {(kind.__doc__ or '').strip().splitlines()[0]}")


def no_arguments(text: str) -> type:
    """Return an empty dataclass that carries a help text."""
    return dataclass(type("NoArguments", (), {"__doc__": text}))


COMMANDS: dict[str, Callable[[Argv], None]] = {
    "demo": demo,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "report": report,
    "methods": methods,
    "networks": networks,
    "datasets": datasets,
}


def usage() -> str:
    """Return the text of ``semiseg --help``."""
    lines = ["usage: semiseg COMMAND [OPTIONS]", "", "Few masks and many images in, a trained model out.", ""]
    lines += [f"  {name:<12}{function.__doc__}" for name, function in COMMANDS.items()]
    return "\n".join([*lines, "", "semiseg COMMAND --help tells a command's options; semiseg --version the version."])


def main() -> int:
    """Run the command line; return the exit status: 0 fine, 2 the input is at fault, 1 we are."""
    argv = sys.argv[1:]
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(f"semiseg {__version__}")
        return 0
    try:
        lookup("command", argv[0], COMMANDS)(argv[1:])
    except ToldElsewhere:
        return 0  # a launcher that sees a process fail kills the one that is about to tell why
    except UserError as error:
        print(f"semiseg: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("semiseg: interrupted; a run goes on by semiseg train --resume RUN", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if type(error).__name__ != "TrainingStopped":
            raise
        print(f"semiseg: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
