"""``semiseg split``: make labeled lists, or derive cheaper annotation from full masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from semiseg.cli.option_parsing import Argv, parse


@dataclass
class Split:
    """Write labeled lists, or a new data set with partially annotated training masks, from one with full masks."""

    data: tyro.conf.Positional[str]
    """Data set with full masks: a directory, or shapes[:images=N,size=S,...]."""
    out: str | None = None
    """New directory for the data set; with only --labeled, a directory for the two lists (default: DATA/splits/...)."""
    scribbles: float | None = None
    """Keep one thin curve in each region that covers this fraction of it (0.03)."""
    boxes: bool = False
    """Keep one rectangle inside each region."""
    classes: str | None = None
    """Keep only these classes: car,tree."""
    single_positive: bool = False
    """Keep one randomly chosen class per image."""
    tags: Literal["all", "some", "single"] | None = None
    """Write tags.csv: every class present or absent, about half of them, or a single present one."""
    labeled: str | None = None
    """Write the lists for this fraction of labeled images (1/16); with only --out, also a number."""
    seed: int = 0
    """Random seed."""


def split(argv: Argv) -> None:
    """Write labeled lists, or derive scribbles, boxes and tags from full masks."""
    from semiseg.workflows.split import split as run

    args: Split = parse(Split, argv, "semiseg split")
    print(run(**vars(args)))
