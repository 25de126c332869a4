"""``semiseg split``: labeled lists, and cheaper annotation derived from full masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from semiseg.cli.option_parsing import Argv, parse


@dataclass
class Split:
    """Write labeled lists, or a new data set whose training masks are annotated in part, from one with full masks."""

    data: tyro.conf.Positional[str]
    """Data set with full masks: a directory, or shapes[:images=N,size=S,...]."""
    out: str | None = None
    """New directory for the data set; for --labeled alone, one for the two lists (DATA/splits/... where absent)."""
    scribbles: float | None = None
    """Keep one thin curve in each region, covering this share of it (0.03)."""
    boxes: bool = False
    """Keep one rectangle inside each region."""
    classes: str | None = None
    """Keep these classes only: car,tree."""
    single_positive: bool = False
    """Keep one class an image, drawn among those that it shows."""
    tags: Literal["all", "some", "single"] | None = None
    """Write tags.csv: every class present or absent, about half of them, or a single one that is present."""
    labeled: str | None = None
    """Write the lists for this share of labeled images (1/16); with --out and nothing else, also a number."""
    seed: int = 0
    """Seed of whatever is drawn."""


def split(argv: Argv) -> None:
    """Write labeled lists, or derive scribbles, boxes, tags from full masks."""
    from semiseg.data.splits.make_splits import make_split

    a: Split = parse(Split, argv, "semiseg split")
    print(make_split(**vars(a)))
