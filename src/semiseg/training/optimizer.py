"""The optimizer: two learning rates, and no weight decay where it does harm."""

from __future__ import annotations

import torch
from torch import nn

from semiseg.config import TrainConfig
from semiseg.networks import SegmentationNetwork
from semiseg.ops.schedules import poly


def make_optimizer(method: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer of every parameter of ``method`` that requires a gradient.

    Encoders learn at ``lr * encoder_lr_factor``, all else at ``lr``; biases and normalization carry no weight decay.
    """
    encoder = {id(p) for m in method.modules() if isinstance(m, SegmentationNetwork) for p in m.encoder_parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in method.parameters():
        if parameter.requires_grad:
            lr = config.lr * (config.encoder_lr_factor if id(parameter) in encoder else 1.0)
            decay = config.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((lr, decay), []).append(parameter)
    params = [{"params": p, "lr": lr, "base_lr": lr, "weight_decay": wd} for (lr, wd), p in groups.items()]
    # Fused: one kernel instead of some for each of hundreds of parameters.
    if config.optimizer == "sgd":
        return torch.optim.SGD(params, lr=config.lr, momentum=0.9, fused=True)
    return torch.optim.AdamW(params, lr=config.lr, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int, total_steps: int) -> float:
    """Set every group's rate for ``step``; return the decoder's."""
    factor = poly(step, total_steps, config.poly_power, min(config.warmup_steps, total_steps // 10))
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return config.lr * factor
