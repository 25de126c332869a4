"""``semiseg prepare``: lay out a downloaded benchmark data set, or pack images into shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from semiseg.cli.option_parsing import Argv, parse


@dataclass
class Prepare:
    """Check a downloaded benchmark data set and link it into a new directory with its lists, or make shards."""

    dataset: tyro.conf.Positional[str]
    """voc2012, cityscapes or ade20k; or shards, to pack a folder of images into tar files."""
    source: Annotated[str, tyro.conf.arg(name="from")]
    """The downloaded copy. For shards, a folder of images, or existing shards to index."""
    out: str
    """Directory to create."""
    existing_only: bool = False
    """Skip missing images of the lists instead of stopping with an error."""
    lists: str | None = None
    """Folder of published lists of labeled images. Default: splits/ of the copy."""
    images_per_shard: int | None = None
    """Shards: images in each. Default: 1000."""
    part: str = "1/1"
    """Shards: I/N writes part I of N of the shards, for N jobs with an --out of their own."""


def prepare(argv: Argv) -> None:
    """Check a downloaded VOC 2012, Cityscapes or ADE20K and lay it out, or pack images into shards."""
    from semiseg.workflows.prepare import prepare as run

    a: Prepare = parse(Prepare, argv, "semiseg prepare")
    report = run(
        a.dataset,
        a.source,
        a.out,
        existing_only=a.existing_only,
        lists=a.lists,
        images_per_shard=a.images_per_shard,
        part=a.part,
    )
    print("\n".join(report))
