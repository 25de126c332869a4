"""Validation during training: evaluate every network of the method on the val list."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semiseg.config import TrainConfig
from semiseg.data.dataset import SegmentationDataset
from semiseg.inference.evaluation import Evaluation, evaluate_networks, parameter_distance
from semiseg.methods import Method
from semiseg.training.checkpoint import write_atomically
from semiseg.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def evaluate_on_val(
    method: Method, run: RunDirectory, config: TrainConfig, fabric: Fabric
) -> tuple[list[dict[str, Any]], Evaluation]:
    """Evaluate every network of ``method``; each rank evaluates a shard of the images and the counts are summed.

    Returns:
        One line of metrics per network, and the evaluation that the lines summarize.
    """
    evaluation = evaluate_networks(
        method.predictors,
        run.dataset,
        run.split.val,
        device=fabric.device,
        image_scale=config.image_scale,
        mode=config.val_mode,
        crop_size=config.crop_size,
        limit=config.val_limit,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    if fabric.world_size > 1:
        evaluation.reduce(lambda counts: fabric.all_reduce(counts, reduce_op="sum"))
    lines = []
    for name, matrix in evaluation.matrices.items():
        line: dict[str, Any] = {"split": "val", "network": name} | matrix.summary(run.dataset.classes)
        if name in evaluation.disagreement:
            line["disagreement"] = evaluation.disagreement[name]
            line["parameter_distance"] = parameter_distance(method.predictors[name], method.student)
        lines.append(line)
    return lines, evaluation


def write_confusion(path: Path, dataset: SegmentationDataset, evaluation: Evaluation, network: str) -> None:
    """Write the confusion counts of one network (rows: ground truth) as JSON."""
    content = {"classes": list(dataset.classes), "network": network, "split": "val"}
    counts = evaluation.matrices[network].counts.tolist()
    write_atomically(path, json.dumps(content | {"counts": counts}).encode())
