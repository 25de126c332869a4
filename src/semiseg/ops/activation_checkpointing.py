"""Activation checkpointing: recompute a block's activations in the backward pass instead of storing them.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016 (https://arxiv.org/abs/1604.06174), with
``torch.utils.checkpoint``: only the input of each block is stored. The second pass equals the first bit for bit:

- PyTorch restores its generators, so dropout is the same.
- The recorded drop masks of `stochastic_depth` are replayed, since its ``with`` block has ended by then.
- BatchNorm updates its running statistics in the first pass only.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from semiseg.ops.stochastic_depth import replay_sub_model, residual_blocks


def recomputable_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the outermost residual blocks of ``network``, and the other modules of the sequences they are in."""
    residual = {*residual_blocks(network)}

    def find(module: nn.Module, in_sequence: bool) -> Iterator[nn.Module]:
        if module in residual or in_sequence:
            yield module
            return
        sequence = isinstance(module, (nn.Sequential, nn.ModuleList)) and any(c in residual for c in module.children())
        for child in module.children():
            yield from find(child, sequence)

    return list(find(network, in_sequence=False))


def recompute_activations(network: nn.Module) -> list[nn.Module]:
    """Make ``network`` recompute each block in every backward pass, and return the blocks.

    Weights, parameter names and outputs do not change. Passes without gradients are not affected. The additional time
    is that of one forward pass.

    Raises:
        ValueError: The network has no residual blocks.
    """
    blocks = recomputable_blocks(network)
    if not blocks:
        raise ValueError("no residual blocks to recompute. Leave out --activation-checkpointing")
    for block in blocks:
        # A bound method: a deep copy of the network gets its own.
        setattr(block, "forward", MethodType(_forward, block))  # noqa: B010 (mypy rejects the assignment)
    return blocks


def _forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = type(block).forward
    if not torch.is_grad_enabled():
        return forward(block, *args, **kwargs)
    return checkpoint(
        forward, block, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _SecondPass(block)), **kwargs
    )


class _SecondPass(AbstractContextManager[None]):
    """Replay the current drop masks, and do not change BatchNorm's running statistics."""

    def __init__(self, block: nn.Module) -> None:
        self.block, self.sub_model, self.stack = block, replay_sub_model(block), ExitStack()

    def __enter__(self) -> None:
        self.stack.enter_context(self.sub_model())
        self.stack.enter_context(_keep_running_statistics(self.block))

    def __exit__(self, *error: Any) -> None:
        self.stack.close()


@contextmanager
def _keep_running_statistics(block: nn.Module) -> Iterator[None]:
    """Let BatchNorm in training mode update copies of its running statistics in the ``with`` block.

    If it had no statistics to update, BatchNorm would save two tensors less for the backward pass, and PyTorch would
    raise an error.
    """
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    updating = [norm for norm in norms if norm.training and norm.track_running_stats]
    before = [(norm, dict(norm.named_buffers(recurse=False))) for norm in updating]
    try:
        for norm, buffers in before:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer.clone())
        yield
    finally:
        for norm, buffers in before:
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
