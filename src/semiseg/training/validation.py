"""Validation while training: every network of the method, its distance to the student, and pictures of what it sees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from semiseg.config import TrainConfig
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits import Split
from semiseg.evaluation.evaluate import evaluate_networks, parameter_distance, spread
from semiseg.evaluation.predictor import Predictor
from semiseg.methods import Method
from semiseg.report.pictures import sample_picture
from semiseg.training.checkpoint import write_atomically

SAMPLES = 4


class Validator:
    """Evaluates a method's networks on the val list, shared out over the processes and summed exactly."""

    def __init__(self, dataset: SegmentationDataset, split: Split, config: TrainConfig, fabric: Fabric) -> None:
        self.dataset, self.split, self.config, self.fabric = dataset, split, config, fabric

    def __call__(self, method: Method) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
        """Return one metrics line a network, and each network's confusion counts, int64 ``(C, C)``."""
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
        return lines, {name: matrix.counts for name, matrix in evaluation.matrices.items()}

    def write_confusion(self, path: Path, counts: dict[str, Tensor], network: str) -> None:
        """Write the confusion counts of one network (rows: truth) as JSON."""
        if self.fabric.is_global_zero:
            content = {"classes": list(self.dataset.classes), "network": network, "split": "val"}
            write_atomically(path, json.dumps(content | {"counts": counts[network].tolist()}).encode())

    @torch.no_grad()
    def write_samples(self, method: Method, folder: Path, step: int) -> list[Path]:
        """Write pictures image | every network | ground truth of a few val images, the same ones each time.

        Returns:
            Their files, ``STEP_IMAGE.png``.
        """
        files = []
        for id in spread(self.split.val, SAMPLES):
            image = self.dataset.read_image(id)
            masks = {
                name: Predictor(network, image_scale=self.config.image_scale, device=self.fabric.device)(image).mask
                for name, network in method.predictors.items()
            }
            picture = sample_picture(image, masks | {"ground truth": self.dataset.read_mask(id)}, self.dataset.palette)
            files.append(folder / f"{step:07d}_{Path(id).name}.png")
            picture.save(files[-1])
        return files
