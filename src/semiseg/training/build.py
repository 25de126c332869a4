"""What a run is made of, as its configuration asks for it: the method on its networks, and the stream of batches."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from lightning_fabric import Fabric
from timm.layers import convert_sync_batchnorm
from torch import nn

from semiseg.config import TrainConfig
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.dataset_split import Split
from semiseg.data.stream.image_reader import ImageReader
from semiseg.data.stream.loader import StreamConfig, TrainStream
from semiseg.data.stream.unlabeled_pool import make_pool
from semiseg.methods import Method
from semiseg.networks import SegmentationNetwork, build
from semiseg.ops.activation_checkpointing import recompute_activations
from semiseg.ops.losses import ohem_cross_entropy
from semiseg.seeding import derive_seed
from semiseg.training.distributed.external_launcher import batch_problem
from semiseg.training.find_method import find_method


def make_method(config: TrainConfig, options: Any, dataset: SegmentationDataset, weights: str | None = None) -> Method:
    """Build the method on networks whose start depends on the seed alone: the same student for every method.

    ``weights`` takes the place of the configured ones; ``none`` where a checkpoint is about to fill the networks.

    Raises:
        ValueError: the method cannot use the network, or makes no use of an option; one line says which.
    """
    torch.manual_seed(derive_seed(config.seed, "start"))
    classes = len(dataset.classes)

    def make() -> SegmentationNetwork:
        network = build(config.architecture, config.encoder, classes, weights or config.weights)
        if config.batchnorm == "frozen-encoder":
            network.freeze_encoder_batchnorm()
        if config.freeze_encoder:
            network.freeze_encoder()
        return network

    method = find_method(config.method)(make, classes, options)
    if config.supervised_loss == "ohem":
        method.supervised_loss = partial(
            ohem_cross_entropy, threshold=config.ohem_threshold, min_kept=config.ohem_min_kept
        )
    if config.activation_checkpointing:
        for network in networks(method, learning=True):
            recompute_activations(network.encoder)
    if config.teacher_precision == "bf16":
        if not networks(method, learning=False):
            raise ValueError("no network of it is a teacher alone: leave --teacher-precision out")
        method.teacher_dtype = torch.bfloat16
    return method.to(memory_format=torch.channels_last)


def synchronize_batchnorm(method: Method) -> Method:
    """Have every BatchNorm of a method's networks take its statistics over all processes (``--batchnorm sync``).

    timm's conversion knows those of its encoders, which hold their activation too. Parameters and buffers stay the same
    objects under the same names: a checkpoint of one fits the other.
    """
    converted: Method = convert_sync_batchnorm(method)
    return converted


def networks(method: nn.Module, learning: bool) -> list[SegmentationNetwork]:
    """Return the method's networks that learn, or those that only follow or label."""
    found = [module for module in method.modules() if isinstance(module, SegmentationNetwork)]
    return [network for network in found if learning == any(p.requires_grad for p in network.parameters())]


def make_stream(
    config: TrainConfig, dataset: SegmentationDataset, split: Split, fabric: Fabric, reader: ImageReader | None = None
) -> TrainStream:
    """Return the stream of batches of this process; ``reader``: what reads its images, if not simply the data set."""
    stream_config = StreamConfig(
        batch_size=config.batch,
        unlabeled_batch_size=config.batch if find_method(config.method).uses_unlabeled else 0,
        crop_size=config.crop_size,
        image_scale=config.image_scale,
        scale_min=config.scale_min,
        scale_max=config.scale_max,
        seed=config.seed,
        fill=config.annotation != "full",
        strict=config.strict,
    )
    rank, world = fabric.global_rank, fabric.world_size
    if error := batch_problem(config, world):
        raise error
    pool = make_pool(reader or ImageReader(dataset), split, config.seed, rank_batch_size=config.batch // world)
    return TrainStream(dataset, split.labeled, pool, stream_config, rank, world, reader)
