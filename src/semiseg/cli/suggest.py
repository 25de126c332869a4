"""``semiseg suggest``."""

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
    """Number of images."""
    data: str | None = None
    """Choose among the images without a mask in this data set. Default: the unlabeled images of the run."""
    out: str | None = None
    """New directory. Default: RUN/suggestions."""
    by: Literal["combined", "uncertainty", "disagreement", "diversity", "random"] = "combined"
    """Ranking: uncertainty of the student, disagreement of the teachers, diversity (distance to annotated and already
    suggested images), all three combined, or random."""
    format: Literal["labelme"] | None = None
    """A further format of the drafts: labelme writes images/NAME.json and images/labels.txt."""
    pool: int = 2000
    """Largest number of images to rate, chosen at random."""
    seed: int = 0
    """Seed of the random choices."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""


def suggest(argv: Argv) -> None:
    """Choose the images to annotate next, and draft their masks."""
    from semiseg.workflows.suggest import suggest as run

    found = run(**vars(parse(Suggest, argv, "semiseg suggest")))
    for rank, image in enumerate(found.images, 1):
        print(f"{rank:>3}. {image.id}  ({', '.join(image.classes[:4])})")
    print(f"{found.folder}: contact-sheet.png, suggestions.csv; drafts: masks/, cvat.zip, label-studio.json")
    print("Next: correct the drafts, put the masks into masks/ of the data, and train again with a new --out")
