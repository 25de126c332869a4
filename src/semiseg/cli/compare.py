"""``semiseg compare``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from semiseg.cli.option_parsing import Argv, check_options, parse
from semiseg.config import TrainConfig

VARIED = ("method", "seed")


@dataclass(frozen=True)
class SharedOptions(TrainConfig):
    """The options that all runs of a comparison share."""

    method: tyro.conf.Suppress[str] = TrainConfig.method
    labeled: str | None = None
    """Labels to use, separated by commas: shares (1/16), numbers (23), files of ids, or all (default) for all masks."""
    seed: tyro.conf.Suppress[int] = TrainConfig.seed


@dataclass
class Compare:
    """Train and evaluate methods with the same data and settings; write a table, a picture and a page.

    The same command again runs the missing cells. The file of --config can set options of single methods.
    """

    settings: Annotated[SharedOptions, tyro.conf.arg(name="")]
    out: str
    """Directory of the comparison: a new one, or that of an earlier call."""
    methods: str | None = None
    """Methods, separated by commas (see semiseg methods). Default: all methods in the file of --config, or supervised
    and dual-teacher."""
    seeds: str | None = None
    """Seeds, separated by commas. Default: 0."""
    time: str | None = None
    """Time budget of each run, such as 20m, for which options that are not given are planned once. Default: 20 minutes
    on a CPU, an hour on a GPU, unless --steps or --epochs is given."""
    jobs: int = 1
    """Number of runs at a time."""
    preset: str | None = None
    """Named set of options: small."""
    config: str | None = None
    """YAML file: options of every run, and methods, labeled, seeds, preset."""
    published: bool = False
    """Add published figures (VOC 2012 and Cityscapes)."""


def compare(argv: Argv) -> None:
    """Train and evaluate several methods with several seeds: table, picture and page."""
    known = [f.name for kind in (SharedOptions, Compare) for f in fields(kind) if f.name not in (*VARIED, "settings")]
    check_options(argv, known, "semiseg compare")
    a: Compare = parse(Compare, argv, "semiseg compare")
    from semiseg.tools.comparison.runner import CellsFailed
    from semiseg.workflows.compare import compare as run
    from semiseg.workflows.train import is_planned

    options = (argument.partition("=")[0] for argument in argv if argument.startswith("--"))
    names = {option.removeprefix("--").replace("-", "_").removeprefix("no_") for option in options}
    if "tensorboard" in names:
        names.add("tracker")  # TrainConfig replaces the deprecated option
    given = {f.name: getattr(a.settings, f.name) for f in fields(TrainConfig) if f.name in names}
    arguments: dict[str, Any] = {key: value for key, value in vars(a).items() if key != "settings"}
    if a.time is None and is_planned(a.config):
        arguments["time"] = "auto"
    table = run(**given, **arguments)
    print((Path(a.out) / "table.md").read_text(encoding="utf-8"), end="")
    print(f"report: {(Path(a.out) / 'report.html').resolve()}")
    if failed := [cell for cell in table["unfinished"] if cell["state"] == "failed"]:
        cells = "; ".join(
            f"{cell['method']}, {cell['labeled']}, seed {cell['seed']}: {cell['reason']}" for cell in failed
        )
        raise CellsFailed(f"{len(failed)} failed: {cells} (logs in {Path(a.out) / 'runs'})")
