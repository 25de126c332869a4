"""``prepare``: lay out a downloaded benchmark data set, or pack images into shards."""

from __future__ import annotations

from pathlib import Path

from semiseg.errors import UserError


def prepare(
    dataset: str,
    source: str | Path,
    out: str | Path,
    *,
    existing_only: bool = False,
    lists: str | Path | None = None,
    images_per_shard: int | None = None,
    part: str = "1/1",
) -> list[str]:
    """Validate a downloaded benchmark data set and link it into a new directory, or make shards of images.

    Args:
        dataset: ``voc2012``, ``cityscapes`` or ``ade20k``; or ``shards``.
        source: The downloaded copy. For shards, a folder of images, or existing shards to index.
        out: The directory to create.
        existing_only: Skip missing images of the lists instead of raising an error.
        lists: A folder of published lists of labeled images. Defaults to ``splits/`` of the copy.
        images_per_shard: The number of images in each shard. Defaults to 1000.
        part: ``I/N`` writes part I of N of the shards.

    Returns:
        Lines that report what was found and made.

    Raises:
        UserError: The input is incomplete, ``out`` exists, or an option does not apply.
    """
    if dataset == "shards":
        if existing_only or lists is not None:
            raise UserError("--existing-only and --lists do not apply to shards", fix="remove them")
        from semiseg.data.stream.make_shards import PER_SHARD, make_shards

        return make_shards(str(source), out, PER_SHARD if images_per_shard is None else images_per_shard, part)
    if images_per_shard is not None:
        raise UserError("applies only to semiseg prepare shards", option="--images-per-shard", fix="remove it")
    if part != "1/1":
        raise UserError("applies only to semiseg prepare shards", option="--part", fix="remove it")
    from semiseg.data.benchmarks.prepare_benchmark import prepare_benchmark

    return prepare_benchmark(dataset, source, out, existing_only=existing_only, lists=lists)
