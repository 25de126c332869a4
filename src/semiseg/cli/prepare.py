"""``semiseg prepare``: a downloaded data set, checked and laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from semiseg.cli.parsing import Argv, parse


@dataclass
class Prepare:
    """Check a downloaded copy of a published data set, and make a tree of links to it with its lists."""

    dataset: tyro.conf.Positional[str]
    """voc2012, cityscapes or ade20k."""
    source: Annotated[str, tyro.conf.arg(name="from")]
    """The downloaded copy."""
    out: str
    """Directory to make."""
    existing_only: bool = False
    """Leave images that are not there out of the lists; they are an error otherwise."""
    lists: str | None = None
    """Folder of published lists of labeled images; the copy's own splits/ where absent."""


def prepare(argv: Argv) -> None:
    """Check a downloaded VOC 2012, Cityscapes or ADE20K and lay it out."""
    from semiseg.api.preparing import prepare as run

    a: Prepare = parse(Prepare, argv, "semiseg prepare")
    print("\n".join(run(a.dataset, a.source, a.out, existing_only=a.existing_only, lists=a.lists)))
