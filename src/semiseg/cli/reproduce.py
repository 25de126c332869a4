"""``semiseg reproduce``."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import tyro

from semiseg.cli.option_parsing import Argv, parse
from semiseg.config import Device

OWN = ("json",)
LISTS = ("methods", "labeled", "encoders")


@dataclass
class Reproduce:
    """Repeat a published table with the configurations in configs/, and compare our figures with the published ones.

    The same command again resumes. Options from --steps on scale the runs down, for a trial; the outputs say so.
    """

    table: tyro.conf.Positional[Literal["voc2012-highquality", "voc2012-blended", "cityscapes", "ade20k", "camvid"]]
    """The published table."""
    data: str | None = None
    """The data set. Without it, --dry-run plans by the published numbers of images."""
    out: str = "reproduction"
    """Directory of the runs and tables: a new one, or that of an earlier call."""
    dry_run: bool = False
    """Print the runs, the published figures and the hours estimated from a timed step, and stop."""
    methods: str | None = None
    """Methods or names of configurations, separated by commas. Default: all."""
    labeled: str | None = None
    """Partitions of the table, separated by commas (92,183 or 1/16,1/8). Default: all."""
    encoders: str | None = None
    """Encoders, separated by commas (resnet50). Default: all."""
    seeds: str = "0"
    """Seeds, separated by commas. The row shows their mean."""
    configs: str | None = None
    """Folder of the configurations. Default: configs/ here or in the repository."""
    existing_only: bool = False
    """Leave out images of the lists that do not exist, to try a table on a few images."""
    jobs: int = 1
    """Number of runs at a time."""
    max_hours: float = 48.0
    """Leave out runs that would take longer on this machine."""
    json: bool = False
    """Print the table as JSON instead of Markdown."""
    accelerator: Device | None = None
    """cpu, cuda or mps. Default: the best of this machine."""
    workers: int | None = None
    """Processes that load images."""
    steps: int | None = None
    """Scaled down: optimizer steps of every run."""
    batch_size: int | None = None
    """Scaled down: labeled images per step, and as many unlabeled ones."""
    crop_size: int | None = None
    """Scaled down: side of the crops."""
    image_scale: float | None = None
    """Scaled down: factor on the size of every image."""
    val_limit: int | None = None
    """Scaled down: number of images to validate on."""
    encoder: str | None = None
    """Scaled down: another encoder in every run."""
    weights: Annotated[str | None, tyro.conf.arg(name="weights")] = None
    """Scaled down: other initial weights, e.g. none."""


def reproduce(argv: Argv) -> None:
    """Repeat a published table, and compare our figures with the published ones."""
    a: Reproduce = parse(Reproduce, argv, "semiseg reproduce")
    from semiseg.tools.comparison.comparison_request import as_list, parse_seed
    from semiseg.tools.comparison.runner import CellsFailed
    from semiseg.tools.reproduction.reproduction_table import to_markdown
    from semiseg.workflows.reproduce import reproduce as run

    arguments = {field.name: getattr(a, field.name) for field in fields(a) if field.name not in OWN}
    arguments |= {name: as_list(arguments[name]) for name in LISTS if arguments[name] is not None}
    content = run(**arguments | {"seeds": [parse_seed(seed) for seed in as_list(a.seeds)]})
    print(json.dumps(content, indent=1) if a.json else to_markdown(content), end="\n" if a.json else "")
    if failed := [row for row in content["rows"] if row["state"] == "failed"]:
        names = "; ".join(f"{row['config']}, {row['labeled']}: {row['reason']}" for row in failed)
        raise CellsFailed(f"{len(failed)} failed: {names} (logs in {a.out}/runs)")
