"""The picture of a comparison: image | each method | ground truth, at random and where the methods differ most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import PIL.Image
import torch
from PIL import ImageDraw
from torch import Tensor

from semiseg.data.dataset import IGNORE, read_sample
from semiseg.data.preview_selection import PREVIEW_COUNT, evenly_spaced, select_distinct
from semiseg.errors import UserError
from semiseg.seeding import generator
from semiseg.visualization.mask_pictures import (
    CAPTION,
    GAP,
    LoadedRun,
    Picture,
    caption_font,
    grid,
    predicted_rows,
    run_legend,
)

CANDIDATES = 60  # images over which the methods' disagreement is measured, spread evenly over the list
GROUPS = ("drawn at random", "where the methods differ most")


def gallery(runs: Mapping[str, LoadedRun]) -> tuple[Picture, str]:
    """Return the picture of several runs on the images that all may be judged on, and its caption.

    Raises:
        UserError: there is no such image.
    """
    first = next(iter(runs.values()))
    ids = [id for id in first.ids if first.dataset.has_mask(id) and all(id in run.ids for run in runs.values())]
    if not ids:
        raise UserError("the runs have no val or test image in common to compare on")
    drawn = draw(ids)
    ranked = by_disagreement(runs, evenly_spaced(ids, CANDIDATES)) if len(runs) > 1 else []
    differing = select_distinct(ranked, ids, drawn)
    width = 320 if len(runs) <= 4 else 240
    groups = {title: chosen for title, chosen in zip(GROUPS, (drawn, differing), strict=True) if chosen}
    parts = [titled(title, grid(*predicted_rows(runs, chosen, width))) for title, chosen in groups.items()]
    named = "; ".join(f"{title}: {', '.join(chosen)}" for title, chosen in groups.items())
    return stacked([*parts, run_legend(runs, width)]), f"Image, each method, ground truth. Images {named}."


def draw(ids: Sequence[str]) -> list[str]:
    """Return a few of the images, drawn at random; the same ones at every call."""
    order = torch.randperm(len(ids), generator=generator(0, "pictures of a comparison")).tolist()
    return [ids[index] for index in sorted(order[:PREVIEW_COUNT])]


def by_disagreement(runs: Mapping[str, LoadedRun], ids: Sequence[str]) -> list[str]:
    """Return the images on which the runs' predictions differ, those with the most first."""
    found: dict[str, float] = {}
    for sample in (read_sample(next(iter(runs.values())).dataset, id) for id in ids):
        assert sample.mask is not None
        found[sample.id] = disagreement([run.predict(sample.image) for run in runs.values()], sample.mask)
    return sorted((id for id in ids if found[id] > 0), key=lambda id: -found[id])


def disagreement(masks: Sequence[Tensor], truth: Tensor) -> float:
    """Return the share of pixels on which two masks differ, the mean over all pairs; unknown pixels do not count.

    Args:
        masks: integers ``(H, W)`` each.
        truth: integers ``(H, W)``, 255 where nobody knows what would be right.
    """
    known = truth != IGNORE
    pixels = int(known.sum())
    pairs = list(combinations(masks, 2))
    if not pixels or not pairs:
        return 0.0
    return sum(int(((one != other) & known).sum()) for one, other in pairs) / (len(pairs) * pixels)


def titled(title: str, picture: Picture) -> Picture:
    """Return the picture below a line of text."""
    head = PIL.Image.new("RGB", (picture.width, CAPTION + 2 * GAP), "white")
    ImageDraw.Draw(head).text((GAP + 1, GAP), f"Images {title}", fill="#5f6670", font=caption_font())
    return stacked([head, picture])


def stacked(pictures: Sequence[Picture]) -> Picture:
    """Return pictures of one width, one below the other."""
    canvas = PIL.Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas
