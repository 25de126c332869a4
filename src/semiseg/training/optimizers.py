"""Optimizers of PyTorch that do not import torch._dynamo, which takes nearly as long as importing PyTorch.

PyTorch wraps some methods of its optimizers for ``torch.compile``. The wrappers import torch._dynamo at the first call.
The optimizer is never compiled here, so these classes call the wrapped methods.
"""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch
from torch.optim import SGD, AdamW, Optimizer

T = TypeVar("T", bound=type[Optimizer])
WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def _without_compilation(kind: T) -> T:
    """Replace the methods that PyTorch wraps for ``torch.compile`` by the methods inside."""
    for name in WRAPPED:
        setattr(kind, name, inspect.unwrap(getattr(kind, name)))
    kind.step = torch.no_grad()(inspect.unwrap(kind.step))  # type: ignore[method-assign]
    return kind


@_without_compilation
class PlainAdamW(AdamW):
    """``torch.optim.AdamW``."""


@_without_compilation
class PlainSGD(SGD):
    """``torch.optim.SGD``."""
