"""Activation checkpointing: what a block computes is not kept for the backward pass, but computed again in it.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016 (https://arxiv.org/abs/1604.06174), by
``torch.utils.checkpoint``: of each block its input alone is kept. The second pass equals the first to the bit: torch
sets its generators back, so that dropout draws the same; the sub-model of `stochastic_depth` is made again by what was
drawn for it, although its ``with`` block has ended; BatchNorm's running statistics move in the first pass only.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from semiseg.ops.stochastic_depth import residual_blocks, sub_model_again


def recomputable_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the residual blocks of ``network`` and what stands in one row with them, none inside another."""
    residual = {*residual_blocks(network)}

    def find(module: nn.Module, in_row: bool) -> Iterator[nn.Module]:
        if module in residual or in_row:
            yield module
            return
        row = isinstance(module, (nn.Sequential, nn.ModuleList)) and any(c in residual for c in module.children())
        for child in module.children():
            yield from find(child, row)

    return list(find(network, in_row=False))


def recompute_activations(network: nn.Module) -> list[nn.Module]:
    """Have each block of ``network`` computed again in the backward pass, from now on; return the blocks.

    Weights, their names and what a pass returns stay as they are; a pass without gradients is not touched. The
    time is that of one more forward pass.

    Raises:
        ValueError: the network has no residual blocks.
    """
    blocks = recomputable_blocks(network)
    if not blocks:
        raise ValueError("no residual blocks to compute again: leave --activation-checkpointing out")
    for block in blocks:
        # A method of the block: a copy of the network gets one of its own.
        setattr(block, "forward", MethodType(_forward, block))  # noqa: B010 (mypy forbids to assign it)
    return blocks


def _forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = type(block).forward
    if not torch.is_grad_enabled():
        return forward(block, *args, **kwargs)
    return checkpoint(
        forward, block, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _Again(block)), **kwargs
    )


class _Again(AbstractContextManager[None]):
    """Makes ``block``, whenever it is entered, what it was when this was made, for a pass that leaves no trace."""

    def __init__(self, block: nn.Module) -> None:
        self.block, self.sub_model, self.stack = block, sub_model_again(block), ExitStack()

    def __enter__(self) -> None:
        self.stack.enter_context(self.sub_model())
        self.stack.enter_context(_running_statistics_kept(self.block))

    def __exit__(self, *error: Any) -> None:
        self.stack.close()


@contextmanager
def _running_statistics_kept(block: nn.Module) -> Iterator[None]:
    """Inside the block, BatchNorm in training mode has copies of its running statistics to move.

    Without any, it would save two tensors less for the backward pass, and torch would object.
    """
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    moving = [norm for norm in norms if norm.training and norm.track_running_stats]
    before = [(norm, dict(norm.named_buffers(recurse=False))) for norm in moving]
    try:
        for norm, buffers in before:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer.clone())
        yield
    finally:
        for norm, buffers in before:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
