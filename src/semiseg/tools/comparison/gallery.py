"""The picture of a comparison: image | each method | ground truth, on random images and where the methods differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import PIL.Image
import torch
from PIL import ImageDraw
from torch import Tensor

from semiseg.data.dataset import IGNORE, read_sample
from semiseg.data.preview_selection import PREVIEW_COUNT, evenly_spaced, select_distinct
from semiseg.seeding import generator
from semiseg.visualization.mask_pictures import CAPTION, GAP, Picture, caption_font, stack
from semiseg.visualization.run_pictures import LoadedRun, common_ids, prediction_grid, run_legend

CANDIDATES = 60  # images on which the disagreement is measured, evenly spaced in the list


def gallery(runs: Mapping[str, LoadedRun]) -> tuple[Picture, str]:
    """Return the picture of several runs and its caption.

    Raises:
        UserError: No image is in the list of every run.
    """
    ids = common_ids(runs)
    random = sample_ids(ids)
    ranked = rank_by_disagreement(runs, evenly_spaced(ids, CANDIDATES)) if len(runs) > 1 else []
    groups = {"chosen at random": random, "where the methods differ most": select_distinct(ranked, ids, random)}
    groups = {title: chosen for title, chosen in groups.items() if chosen}
    width = 320 if len(runs) <= 4 else 240
    parts = [part for title, chosen in groups.items() for part in (_title(title), prediction_grid(runs, chosen, width))]
    names = "; ".join(f"{title}: {', '.join(chosen)}" for title, chosen in groups.items())
    return stack([*parts, run_legend(runs, width)]), f"Image, each method, ground truth. Images {names}."


def sample_ids(ids: Sequence[str]) -> list[str]:
    """Return a few random ids, the same ones at every call."""
    order = torch.randperm(len(ids), generator=generator(0, "pictures of a comparison")).tolist()
    return [ids[index] for index in sorted(order[:PREVIEW_COUNT])]


def rank_by_disagreement(runs: Mapping[str, LoadedRun], ids: Sequence[str]) -> list[str]:
    """Return the images on which the predictions of the runs differ, the largest disagreement first."""
    values: dict[str, float] = {}
    for id in ids:
        sample = read_sample(next(iter(runs.values())).dataset, id)
        assert sample.mask is not None
        values[id] = disagreement([run.predict(sample.image) for run in runs.values()], sample.mask)
    return sorted((id for id in ids if values[id] > 0), key=lambda id: -values[id])


def disagreement(masks: Sequence[Tensor], truth: Tensor) -> float:
    """Return the share of pixels on which two masks differ, averaged over all pairs of masks.

    Args:
        masks: Integers ``(H, W)`` each.
        truth: Integers ``(H, W)``; pixels with the value 255 are left out.
    """
    known = truth != IGNORE
    pixels = int(known.sum())
    pairs = list(combinations(masks, 2))
    if not pixels or not pairs:
        return 0.0
    return sum(int(((one != other) & known).sum()) for one, other in pairs) / (len(pairs) * pixels)


def _title(text: str) -> Picture:
    title = PIL.Image.new("RGB", (320, CAPTION + 2 * GAP), "white")
    ImageDraw.Draw(title).text((GAP + 1, GAP), f"Images {text}", fill="#5f6670", font=caption_font())
    return title
