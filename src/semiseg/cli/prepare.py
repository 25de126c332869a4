"""``semiseg prepare``: a downloaded data set, checked and laid out; photographs, packed into shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from semiseg.cli.option_parsing import Argv, parse
from semiseg.errors import UserError


@dataclass
class Prepare:
    """Check a downloaded copy of a published data set, and make a tree of links to it and its lists; or make shards."""

    dataset: tyro.conf.Positional[str]
    """voc2012, cityscapes or ade20k; or shards: tar files of a folder of photographs."""
    source: Annotated[str, tyro.conf.arg(name="from")]
    """The downloaded copy; for shards the photographs, or, to make an index of them, shards that lie anywhere."""
    out: str
    """Directory to make."""
    existing_only: bool = False
    """Leave images that are not there out of the lists; they are an error otherwise."""
    lists: str | None = None
    """Folder of published lists of labeled images; the copy's own splits/ where absent."""
    images_per_shard: int | None = None
    """Shards: images in each (1000)."""


def prepare(argv: Argv) -> None:
    """Check a downloaded VOC 2012, Cityscapes or ADE20K and lay it out; or make shards of photographs."""
    a: Prepare = parse(Prepare, argv, "semiseg prepare")
    if a.dataset == "shards":
        from semiseg.data.stream.make_shards import PER_SHARD, make_shards

        if a.existing_only or a.lists is not None:
            raise UserError("--existing-only and --lists say nothing of shards: leave them out")
        number = PER_SHARD if a.images_per_shard is None else a.images_per_shard
        print("\n".join(make_shards(a.source, a.out, number)))
        return
    from semiseg.data.benchmarks.prepare_benchmark import prepare as run

    if a.images_per_shard is not None:
        raise UserError("--images-per-shard is for semiseg prepare shards: leave it out")
    print("\n".join(run(a.dataset, a.source, a.out, existing_only=a.existing_only, lists=a.lists)))
