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
class Shared(TrainConfig):
    """The options of every run, but for those in which the runs of a comparison differ."""

    method: tyro.conf.Suppress[str] = TrainConfig.method
    labeled: str | None = None
    """Labels to use, separated by commas: shares (1/16), numbers (23), files of ids; all (the default): all masks."""
    seed: tyro.conf.Suppress[int] = TrainConfig.seed


@dataclass
class Compare:
    """Train and test methods on the same data with the same settings; one table, one picture, one page of all of them.

    The same command again goes on with what is missing. Options of one method go into the file of --config.
    """

    settings: Annotated[Shared, tyro.conf.arg(name="")]
    out: str
    """Directory to make, or one of an earlier call to go on with."""
    methods: str | None = None
    """Methods, separated by commas (semiseg methods); where absent, all that the file names."""
    seeds: str | None = None
    """Seeds, separated by commas (0 where absent)."""
    jobs: int = 1
    """Runs side by side."""
    preset: str | None = None
    """Named set of options: small."""
    config: str | None = None
    """YAML file: options of every run, and methods, labeled, seeds, preset."""
    published: bool = False
    """Set published figures beside (VOC 2012 and Cityscapes)."""


def compare(argv: Argv) -> None:
    """Train and test several methods, several times each: table, picture and page."""
    known = [f.name for kind in (Shared, Compare) for f in fields(kind) if f.name not in (*VARIED, "settings")]
    check_options(argv, known, "semiseg compare")
    a: Compare = parse(Compare, argv, "semiseg compare")
    from semiseg.tools.comparison import CellsFailed
    from semiseg.tools.comparison import compare as run

    options = (argument.partition("=")[0] for argument in argv if argument.startswith("--"))
    names = {option.removeprefix("--").replace("-", "_").removeprefix("no_") for option in options}
    given = {f.name: getattr(a.settings, f.name) for f in fields(TrainConfig) if f.name in names}
    arguments: dict[str, Any] = {key: value for key, value in vars(a).items() if key != "settings"}
    table = run(**given, **arguments)
    print((Path(a.out) / "table.md").read_text(encoding="utf-8"), end="")
    print(f"report: {(Path(a.out) / 'report.html').resolve()}")
    if failed := [one for one in table["unfinished"] if one["state"] == "failed"]:
        cells = "; ".join(f"{one['method']}, {one['labeled']}, seed {one['seed']}: {one['reason']}" for one in failed)
        raise CellsFailed(f"{len(failed)} failed: {cells} (their logs are in {Path(a.out) / 'runs'})")
