"""Validation while training: every network of the method and its distance to the student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from semiseg.config import TrainConfig
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.dataset_split import Split
from semiseg.inference.evaluation import Evaluation, evaluate_networks, parameter_distance
from semiseg.methods import Method
from semiseg.training.checkpoint import write_atomically


class Validator:
    """Evaluates a method's networks on the val list, shared out over the processes and summed exactly."""

    def __init__(self, dataset: SegmentationDataset, split: Split, config: TrainConfig, fabric: Fabric) -> None:
        self.dataset, self.split, self.config, self.fabric = dataset, split, config, fabric

    def __call__(self, method: Method) -> tuple[list[dict[str, Any]], Evaluation]:
        """Return one metrics line a network, and what they were made from."""
        evaluation = evaluate_networks(
            method.predictors,
            self.dataset,
            self.split.val,
            device=self.fabric.device,
            image_scale=self.config.image_scale,
            limit=self.config.val_limit,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        if self.fabric.world_size > 1:
            evaluation.reduce(lambda counts: self.fabric.all_reduce(counts, reduce_op="sum"))
        lines = []
        for name, matrix in evaluation.matrices.items():
            line: dict[str, Any] = {"split": "val", "network": name} | matrix.summary(self.dataset.classes)
            if name in evaluation.disagreement:
                line["disagreement"] = evaluation.disagreement[name]
                line["parameter_distance"] = parameter_distance(method.predictors[name], method.student)
            lines.append(line)
        return lines, evaluation

    def write_confusion(self, path: Path, evaluation: Evaluation, network: str) -> None:
        """Write the confusion counts of one network (rows: truth) as JSON."""
        if self.fabric.is_global_zero:
            content = {"classes": list(self.dataset.classes), "network": network, "split": "val"}
            counts = evaluation.matrices[network].counts.tolist()
            write_atomically(path, json.dumps(content | {"counts": counts}).encode())
