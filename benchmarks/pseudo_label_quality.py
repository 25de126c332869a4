"""Quality of pseudo-labels: compare the networks of a run with masks of its unlabeled images, which it never saw.

    python benchmarks/pseudo_label_quality.py RUN [RUN ...] --limit 200 --threshold 0.95

For each network of the best checkpoint, over the unlabeled images that have a mask: mIoU, pixel accuracy, the share of
pixels at or above the threshold and their accuracy, the expected calibration error (Guo et al., "On Calibration of
Modern Neural Networks", ICML 2017, 20 bins), and by class the IoU, the share trusted and the precision of trusted
pixels. Prints a table and writes RUN/pseudo-labels-CHECKPOINT.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semiseg.data.dataset import IGNORE, read_ahead
from semiseg.data.preview_selection import evenly_spaced
from semiseg.inference.metrics import ConfusionMatrix
from semiseg.tools.models.trained_model import load
from semiseg.training.run_data import open_run_data
from semiseg.training.run_directory import RunDirectory

BINS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--data", help="the data at a new path")
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best")
    parser.add_argument("--limit", type=int, default=200, help="images, spread evenly over the list")
    parser.add_argument("--threshold", type=float, default=0.95)
    args = parser.parse_args()
    for run in args.runs:
        rows = quality(run, args.data, args.checkpoint, args.limit, args.threshold)
        (run / f"pseudo-labels-{args.checkpoint}.json").write_text(json.dumps(rows, indent=1) + "\n")
        for row in rows:
            print(
                f"{run.name}  step {row['step']}  {row['network']:<17}  mIoU {row['miou']:.2f}"
                f"  accuracy {row['accuracy']:.1f}  trusted {row['trusted']:.1f}"
                f"  of these right {row['trusted_accuracy']:.1f}  ECE {row['ece']:.1f}"
            )
            for name, values in row["classes"].items():
                print(f"    {name:<16}" + "  ".join(f"{key} {value}" for key, value in values.items()))


def quality(run: Path, data: str | None, checkpoint: str, limit: int, threshold: float) -> list[dict[str, Any]]:
    """Return the figures of each network in percent."""
    model = load(run, checkpoint=checkpoint)
    dataset = open_run_data(model.config, run, data)
    lists = RunDirectory(run).read_split(dataset)
    ids = evenly_spaced([id for id in lists.unlabeled if dataset.has_mask(id)], limit)
    classes = len(dataset.classes)
    predictors = {name: model.make_predictor(name) for name in model.choices}
    everything = {name: ConfusionMatrix(classes) for name in predictors}
    trusted = {name: ConfusionMatrix(classes) for name in predictors}
    bins = {name: torch.zeros(3, BINS, dtype=torch.float64) for name in predictors}  # pixels, sum of confidence, hits
    for image, mask in read_ahead(lambda id: (dataset.read_image(id), dataset.read_mask(id)), ids):
        for name, predictor in predictors.items():
            predicted, confidence = (value.cpu() for value in predictor(image))
            everything[name].update(predicted, mask)
            trusted[name].update(predicted, mask.where(confidence >= threshold, torch.tensor(IGNORE, dtype=mask.dtype)))
            known = mask != IGNORE
            add_to_bins(bins[name], confidence[known].double(), (predicted == mask)[known].double())
    return [
        {"network": name, "step": model.step, "images": len(ids), "threshold": threshold}
        | figures(everything[name], trusted[name], bins[name], dataset.classes)
        for name in predictors
    ]


def add_to_bins(bins: Tensor, confidence: Tensor, hits: Tensor) -> None:
    """Add pixels ``(N,)`` to the bins of their confidence."""
    index = (confidence * BINS).long().clamp_(max=BINS - 1)
    for row, values in zip(bins, (torch.ones_like(hits), confidence, hits), strict=True):
        row.index_add_(0, index, values)


def figures(
    everything: ConfusionMatrix, trusted: ConfusionMatrix, bins: Tensor, names: tuple[str, ...]
) -> dict[str, Any]:
    """Return all figures of one network; those by class are the IoU, the trusted share of its pixels, and precision."""
    pixels, kept = everything.counts.sum(), trusted.counts.sum()
    iou, precision = everything.iou(), trusted.precision()
    share = 100 * trusted.counts.sum(1) / everything.counts.sum(1).clamp(min=1)
    return {
        "miou": everything.miou(),
        "accuracy": float(100 * everything.counts.trace() / pixels),
        "trusted": float(100 * kept / pixels),
        "trusted_accuracy": float(100 * trusted.counts.trace() / kept.clamp(min=1)),
        "ece": float(100 * (bins[1] - bins[2]).abs().sum() / bins[0].sum()),
        "classes": {
            name: {"iou": rounded(iou[i]), "trusted": rounded(float(share[i])), "precision": rounded(precision[i])}
            for i, name in enumerate(names)
        },
    }


def rounded(value: float | None) -> float | None:
    """Return one decimal, or None for a class that does not occur."""
    return None if value is None else round(value, 1)


if __name__ == "__main__":
    main()
