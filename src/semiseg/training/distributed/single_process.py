"""Training in one process on the CPU in fp32, which needs nothing of Lightning Fabric but its interface."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class SingleProcess:
    """The methods of Fabric that training calls. Importing Fabric takes as long as importing PyTorch."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.global_rank, self.world_size, self.is_global_zero = 0, 1, True

    def launch(self) -> None:
        """Do nothing."""

    def setup(self, module: nn.Module, *optimizers: torch.optim.Optimizer) -> Any:
        """Return the module and the optimizers, or the module alone."""
        return (module, *optimizers) if optimizers else module

    def to_device(self, module: T) -> T:
        """Return the module, which is on the CPU."""
        return module

    def autocast(self) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()

    def no_backward_sync(self, module: nn.Module, enabled: bool = True) -> AbstractContextManager[None]:
        """Return a context that changes nothing."""
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of ``loss``."""
        loss.backward()

    def all_reduce(self, value: Tensor, reduce_op: str = "mean") -> Tensor:
        """Return the sum or mean over this process."""
        return value

    def broadcast(self, value: T, src: int = 0) -> T:
        """Return the value of this process."""
        return value

    def barrier(self) -> None:
        """Wait for no other process."""
