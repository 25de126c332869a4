"""Build the objects that a run needs from its configuration: method, optimizer and batches."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from semiseg.config import TrainConfig
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.dataset_split import Split
from semiseg.data.stream.image_reader import ImageReader
from semiseg.data.stream.loader import StreamConfig, TrainStream
from semiseg.data.stream.unlabeled_pool import make_pool
from semiseg.methods import Method
from semiseg.networks import NetworkOptions, SegmentationNetwork, build
from semiseg.ops.activation_checkpointing import recompute_activations
from semiseg.ops.losses import ohem_cross_entropy
from semiseg.ops.schedules import poly
from semiseg.seeding import derive_seed
from semiseg.training.distributed.external_launcher import batch_problem
from semiseg.training.find_method import find_method
from semiseg.training.initial_network import initialize, read_initial_network
from semiseg.training.optimizers import PlainAdamW, PlainSGD

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DEFAULT_STEPS = 2000
DEFAULT_OHEM_MIN_KEPT = 100_000


def make_method(config: TrainConfig, options: Any, dataset: SegmentationDataset, weights: str | None = None) -> Method:
    """Build the method and its networks.

    The initial weights depend only on the seed, so every method starts from the same student.

    Args:
        config: The run's configuration.
        options: The method's options.
        dataset: Provides the numbers of classes and channels.
        weights: Replaces ``config.weights`` and ``config.init``. ``none``: a checkpoint fills the networks afterwards.

    Raises:
        ValueError: The method cannot use the network or an option; the message is one line.
    """
    torch.manual_seed(derive_seed(config.seed, "start"))
    classes = len(dataset.classes)
    initial = read_initial_network(Path(config.init)) if config.init and weights is None else None
    if initial is not None:
        weights = "none"

    def make_network() -> SegmentationNetwork:
        channels = dataset.pixel_format.channels
        network = build_network(config, classes, channels, weights or config.weights)
        if config.batchnorm == "frozen-encoder":
            network.freeze_encoder_batchnorm()
        if config.freeze_encoder:
            network.freeze_encoder()
        return network

    method = find_method(config.method)(make_network, classes, options)
    if initial is not None:
        initialize(method, initial, tuple(dataset.classes))
    if config.supervised_loss == "ohem":
        method.supervised_loss = partial(
            ohem_cross_entropy,
            threshold=config.ohem_threshold,
            min_kept=config.ohem_min_kept or DEFAULT_OHEM_MIN_KEPT,
            min_kept_per_image=config.ohem_min_kept_per_image,
        )
    if config.activation_checkpointing:
        for network in networks(method, trainable=True):
            recompute_activations(network.encoder)
    if config.teacher_precision == "bf16":
        if not networks(method, trainable=False):
            raise ValueError("the method has no teacher; leave --teacher-precision out")
        method.teacher_dtype = torch.bfloat16
    return method.to(memory_format=torch.channels_last)


def network_options(config: TrainConfig) -> NetworkOptions:
    """Return the options of a run's network. Runs of version 0.1 have saved none of them."""
    return NetworkOptions(
        output_stride=config.output_stride,
        multi_grid=config.multi_grid,
        low_level_channels=config.low_level_channels,
        aux_head=config.aux_head,
        align_corners=config.align_corners,
        head_dropout=config.head_dropout,
        encoder_drop_path=config.encoder_drop_path or 0.0,
        version=config.network_version or 1,
    )


def build_network(config: TrainConfig, classes: int, channels: int, weights: str = "none") -> SegmentationNetwork:
    """Build the network of a run."""
    return build(config.architecture, config.encoder, classes, weights, channels, network_options(config))


def synchronize_batchnorm(method: Method) -> Method:
    """Compute the statistics of every BatchNorm over all processes (``--batchnorm sync``).

    timm's conversion also handles the layers of its encoders that combine BatchNorm and activation. Parameters and
    buffers keep their names, so checkpoints remain interchangeable.
    """
    from timm.layers import convert_sync_batchnorm

    converted: Method = convert_sync_batchnorm(method)
    return converted


def networks(method: nn.Module, trainable: bool) -> list[SegmentationNetwork]:
    """Return the method's trainable networks, or those without trainable parameters (teachers)."""
    found = [module for module in method.modules() if isinstance(module, SegmentationNetwork)]
    return [network for network in found if trainable == any(p.requires_grad for p in network.parameters())]


def make_optimizer(method: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer of all trainable parameters of ``method``.

    Encoders use the learning rate ``lr * encoder_lr_factor``, all other parameters ``lr``. Biases and normalization
    layers have no weight decay unless ``weight_decay_on`` is ``all``.
    """
    encoder = {id(p) for m in method.modules() if isinstance(m, SegmentationNetwork) for p in m.encoder_parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in method.parameters():
        if parameter.requires_grad:
            lr = config.lr * (config.encoder_lr_factor if id(parameter) in encoder else 1.0)
            decay = config.weight_decay if parameter.dim() > 1 or config.weight_decay_on == "all" else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    params = [{"params": p, "lr": lr, "base_lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()]
    # A fused optimizer launches one kernel instead of several per parameter.
    if config.optimizer == "sgd":
        return PlainSGD(params, lr=config.lr, momentum=0.9, fused=True)
    return PlainAdamW(params, lr=config.lr, fused=True)


def steps_per_epoch(config: TrainConfig, split: Split) -> int:
    """Return the number of steps of an epoch: of a pass over the list that ``epoch_of`` names."""
    uses_unlabeled = find_method(config.method).uses_unlabeled
    unlabeled = config.epoch_of == "unlabeled" or (config.epoch_of == "auto" and uses_unlabeled)
    return math.ceil((split.unlabeled_count if unlabeled else len(split.labeled)) / config.batch)


def planned_steps(config: TrainConfig, epoch_steps: int) -> int:
    """Return the number of steps of a run, of which an epoch has ``epoch_steps``."""
    return config.steps or (config.epochs * epoch_steps if config.epochs else DEFAULT_STEPS)


def learning_rate(config: TrainConfig, step: int, total_steps: int) -> float:
    """Return the learning rate of the decoder at a step: a function of the step and the number of steps."""
    return config.lr * learning_rate_factor(config, step, total_steps)


def learning_rate_factor(config: TrainConfig, step: int, total_steps: int) -> float:
    """Return the factor on every learning rate at a step: warm-up, then polynomial decay over ``lr_steps``."""
    total = config.lr_steps or total_steps
    return poly(step, total, config.poly_power, min(config.warmup_steps, total // 10))


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, total_steps: int) -> float:
    """Set the learning rate of every group for ``step``; return the decoder's."""
    factor = learning_rate_factor(config, step, total_steps)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return config.lr * factor


def make_stream(
    config: TrainConfig, dataset: SegmentationDataset, split: Split, fabric: Fabric, reader: ImageReader | None = None
) -> TrainStream:
    """Return the batches of this rank; ``reader`` reads their images (default: ``ImageReader(dataset)``).

    Raises:
        UserError: The batch size is not a multiple of the number of processes.
    """
    stream_config = StreamConfig(
        batch_size=config.batch,
        unlabeled_batch_size=config.batch if find_method(config.method).uses_unlabeled else 0,
        crop_size=config.crop_size,
        image_scale=config.image_scale,
        short_side=config.short_side,
        scale_min=config.scale_min,
        scale_max=config.scale_max,
        seed=config.seed,
        fill=config.annotation != "full",
        strict=config.strict,
    )
    rank, world_size = fabric.global_rank, fabric.world_size
    if error := batch_problem(config, world_size):
        raise error
    pool = make_pool(reader or ImageReader(dataset), split, config.seed, rank_batch_size=config.batch // world_size)
    return TrainStream(dataset, split.labeled, pool, stream_config, rank, world_size, reader)
