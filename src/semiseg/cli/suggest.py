"""``semiseg suggest``: which images to annotate next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from semiseg.cli.option_parsing import Argv, parse


@dataclass
class Suggest:
    """Choose the images to annotate next, and draft their masks for CVAT, Label Studio or any editor."""

    run: tyro.conf.Positional[str]
    """Run directory."""
    n: Annotated[int, tyro.conf.arg(aliases=("-n",))] = 20
    """How many images."""
    data: str | None = None
    """Choose among the images without a mask there; among the run's unlabeled images where absent."""
    out: str | None = None
    """New directory; RUN/suggestions where absent."""
    by: Literal["combined", "uncertainty", "disagreement", "diversity", "random"] = "combined"
    """What counts: how unsure the student is, how much the teachers disagree, how unlike an image is to what is known
    or suggested already (diversity), or all three (combined)."""
    pool: int = 2000
    """Look at this many images at most, drawn at random."""
    seed: int = 0
    """Seed of whatever is drawn."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""


def suggest(argv: Argv) -> None:
    """Choose what to annotate next, and draft the masks."""
    from semiseg.tools.suggestion import suggest as choose

    found = choose(**vars(parse(Suggest, argv, "semiseg suggest")))
    for rank, one in enumerate(found.images, 1):
        print(f"{rank:>3}. {one.id}  ({', '.join(one.classes[:4])})")
    print(f"{found.folder}: contact-sheet.png, suggestions.csv; drafts: masks/, cvat.zip, label-studio.json")
