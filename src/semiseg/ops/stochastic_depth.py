"""Versatile stochastic depth: sub-models of any residual network, without editing its class.

Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016 (https://arxiv.org/abs/1603.09382), with the linear
decay of its section 3; used by Dual Teacher (Na et al., NeurIPS 2023) to make sub-models of the student, "applicable
from CNNs to transformers". We scale what is kept by ``1 / keep`` while it is drawn, as timm's ``DropPath`` does, where
Huang et al. scale at test time: both agree in expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from semiseg.ops.global_batch import uniform

# ResNet blocks without a drop-path module: the first of these that a block has is the end of its residual branch
# (excitation comes after the last normalization; a bottleneck has three of those; in an SK block they are in the conv).
_BRANCH_ENDS = ("se", "se_module", "bn3", "bn2", "conv3", "conv2")
_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2", "drop_path3", "stochastic_depth")


def residual_sites(network: nn.Module) -> list[nn.Module]:
    """Return the modules whose outputs are the residual branches of ``network``, in order of depth.

    A block is known by its attributes: drop-path modules (timm's CNNs and transformers, the MiT encoders of
    segmentation_models_pytorch, torchvision), else those of a ResNet block, else those of an inverted residual.
    A module that its block applies twice, as in MiT, is one site and draws at each application.
    """
    sites: list[nn.Module] = []
    for block in residual_blocks(network):
        sites.extend(site for site in _branch_ends(block) if all(site is not known for known in sites))
    return sites


def residual_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the modules that hold the sites of ``residual_sites``, in the same order."""
    return [block for block in network.modules() if _branch_ends(block)]


def _branch_ends(block: nn.Module) -> list[nn.Module]:
    parts = {name: part for name, part in block.named_children() if part is not None}
    if not _has_skip(block):
        return []
    drop_paths = [parts[name] for name in _DROP_PATHS if name in parts]
    if drop_paths:
        return drop_paths
    if hasattr(block, "downsample") and "conv1" in parts:  # ResNet and its relatives
        return [parts[name] for name in _BRANCH_ENDS if name in parts][:1]
    if getattr(block, "use_res_connect", False) and "conv" in parts:  # torchvision's MobileNetV2
        return [parts["conv"]]
    if hasattr(block, "_has_drop_connect") and "_bn2" in parts:  # EfficientNet of segmentation_models_pytorch
        return [parts["_bn2"]]
    return []


def _has_skip(block: nn.Module) -> bool:
    """Tell whether there really is a path around the branch; without one, dropping would be destroying."""
    flags = ("has_skip", "use_res_connect", "_has_drop_connect")
    if any(getattr(block, flag, True) is False for flag in flags):
        return False
    return all(getattr(block, path, block) is not None for path in ("shortcut", "identity"))


@contextmanager
def stochastic_depth(network: nn.Module, rate: float | Tensor, linear: bool = True) -> Iterator[None]:
    """Inside the block, every forward pass of ``network`` is one of a random sub-model per sample.

    At site ``i`` of ``n`` (from 1) a sample's residual branch is dropped with probability ``p = rate * i / n``, or
    ``p = rate`` where not ``linear``; what is kept is divided by ``1 - p``, so the expectation is the full branch. It
    works in training and in evaluation mode alike, and takes the place of the drop path the network has of its own.
    Draws come from the CPU on every device (`global_batch`). Nothing is left behind after the block.

    Args:
        network: any network with residual sites.
        rate: in [0, 1], for all samples; or float ``(N,)``, a rate for each sample of the batches to come. Samples
            of rate 0 come out as if there were no block.
        linear: let the rate grow linearly with depth (Huang et al., section 3), up to ``rate`` at the last site.

    Raises:
        ValueError: a rate outside [0, 1], a network without residual sites, or (in the forward pass) a batch whose
            size is not that of ``rate``.

    Example:
        >>> with stochastic_depth(network, 0.1):  # doctest: +SKIP
        ...     logits = network(images)
    """
    rates = torch.as_tensor(rate, dtype=torch.float64).detach().cpu()
    if not bool(((rates >= 0) & (rates <= 1)).all()):
        raise ValueError(f"rate is a probability, within [0, 1]: {rate}")
    sites = residual_sites(network)
    if not sites:
        raise ValueError(f"{type(network).__name__} has no residual branches that stochastic depth could drop")
    depths = [index / len(sites) if linear else 1 for index in range(1, len(sites) + 1)]
    drops = [(site, _Drop((1 - rates * depth).float())) for site, depth in zip(sites, depths, strict=True)]
    _open.append(drops)
    try:
        with _hooked(drops):
            yield
    finally:
        _open.pop()


def sub_model_again(block: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """Return what makes ``block``, each time it is entered, the sub-model that it is in the pass that comes next.

    For a pass that is taken again in the backward pass, when its ``stochastic_depth`` has ended and the generator is
    elsewhere: what has been drawn is used once more.
    """
    inside = {*block.modules()}
    drops = [(site, drop.drawn, len(drop.drawn)) for drops in _open for site, drop in drops if site in inside]
    return lambda: _hooked([(site, _DropAgain(drawn[before:])) for site, drawn, before in drops])


class _Drop:
    """Forward hook: replaces a branch ``(N, ...)`` by branch * draw / keep, ``keep`` being ``()`` or ``(N,)``."""

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep
        self.drawn: list[Tensor] = []  # draw / keep of each pass
        self.scale = torch.where(keep > 0, 1 / keep.clamp(min=torch.finfo(keep.dtype).tiny), 0.0)

    def __call__(self, module: nn.Module, args: Any, branch: Tensor) -> Tensor:
        samples = len(branch)
        if self.keep.ndim and len(self.keep) != samples:
            raise ValueError(f"{len(self.keep)} rates for a batch of {samples}")
        factor = torch.where(uniform(samples) < self.keep, self.scale, 0.0)
        # non_blocking: a few bytes a site must not make the host wait for the device.
        factor = factor.to(branch.device, branch.dtype, non_blocking=True)
        self.drawn.append(factor.view(-1, *[1] * (branch.ndim - 1)))
        return branch * self.drawn[-1]


class _DropAgain:
    """Forward hook: as ``_Drop`` in the passes in which it drew ``drawn``."""

    def __init__(self, drawn: list[Tensor]) -> None:
        self.drawn = iter(drawn)

    def __call__(self, module: nn.Module, args: Any, branch: Tensor) -> Tensor:
        return branch * next(self.drawn)


_open: list[list[tuple[nn.Module, _Drop]]] = []  # the sites of every `stochastic_depth` that is open, outermost first


@contextmanager
def _hooked(drops: Sequence[tuple[nn.Module, _Drop | _DropAgain]]) -> Iterator[None]:
    with ExitStack() as stack:
        for site, drop in drops:
            stack.enter_context(_silenced(site))
            stack.callback(site.register_forward_hook(drop).remove)
        yield


@contextmanager
def _silenced(site: nn.Module) -> Iterator[None]:
    """Turn off the site's own drop path (timm's ``DropPath.drop_prob``, torchvision's ``StochasticDepth.p``)."""
    own = [name for name in ("drop_prob", "p") if isinstance(getattr(site, name, None), float | int)]
    before = {name: getattr(site, name) for name in own}
    for name in own:
        setattr(site, name, 0.0)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(site, name, value)
