"""Stochastic depth for any residual network: random sub-models, without editing the network's class.

Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016 (https://arxiv.org/abs/1603.09382), with the linear
decay of its section 3. Dual Teacher (Na et al., NeurIPS 2023) uses it for sub-models of the student. Kept
branches are scaled by ``1 / keep`` during training, as in timm's ``DropPath``; Huang et al. scale at test time. Both
have the same expectation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from semiseg.ops.global_batch import to_device, uniform

# Candidates for the last module of the residual branch of a ResNet block without drop path, in order of priority.
# Squeeze-and-excitation follows the last normalization. A bottleneck has three normalizations. SK blocks have them
# inside their convolutions.
_BRANCH_ENDS = ("se", "se_module", "bn3", "bn2", "conv3", "conv2")
_DROP_PATHS = ("drop_path", "drop_path1", "drop_path2", "drop_path3", "stochastic_depth")


def residual_sites(network: nn.Module) -> list[nn.Module]:
    """Return the modules whose outputs are the residual branches of ``network``, in order of depth.

    A block is recognized by its attributes: drop-path modules (timm's CNNs and transformers, the MiT encoders of
    segmentation_models_pytorch, torchvision), else those of a ResNet block, else those of an inverted residual.
    A module that its block applies twice, as in MiT, is one site, sampled at each application.
    """
    sites: list[nn.Module] = []
    for block in residual_blocks(network):
        sites.extend(site for site in _branch_ends(block) if all(site is not known for known in sites))
    return sites


def residual_blocks(network: nn.Module) -> list[nn.Module]:
    """Return the modules that contain the sites of ``residual_sites``, in the same order."""
    return [block for block in network.modules() if _branch_ends(block)]


def _branch_ends(block: nn.Module) -> list[nn.Module]:
    children = {name: child for name, child in block.named_children() if child is not None}
    if not _has_skip(block):
        return []
    drop_paths = [children[name] for name in _DROP_PATHS if name in children]
    if drop_paths:
        return drop_paths
    if hasattr(block, "downsample") and "conv1" in children:  # ResNet and its relatives
        return [children[name] for name in _BRANCH_ENDS if name in children][:1]
    if getattr(block, "use_res_connect", False) and "conv" in children:  # torchvision's MobileNetV2
        return [children["conv"]]
    if hasattr(block, "_has_drop_connect") and "_bn2" in children:  # EfficientNet of segmentation_models_pytorch
        return [children["_bn2"]]
    return []


def _has_skip(block: nn.Module) -> bool:
    """Return whether the block has a skip connection; without one, dropping its branch would destroy the features."""
    flags = ("has_skip", "use_res_connect", "_has_drop_connect")
    if any(getattr(block, flag, True) is False for flag in flags):
        return False
    return all(getattr(block, path, block) is not None for path in ("shortcut", "identity"))


@contextmanager
def stochastic_depth(network: nn.Module, rate: float | Tensor, linear: bool = True) -> Iterator[None]:
    """Apply stochastic depth to each forward pass in the ``with`` block: every sample uses its own random sub-model.

    At site ``i`` of ``n`` (from 1), a sample's residual branch is dropped with probability ``p = rate * i / n``, or
    ``p = rate`` if not ``linear``. Kept branches are divided by ``1 - p``, so the expectation is the full branch. This
    applies in training and evaluation mode and replaces the network's own drop path. Random numbers are generated on
    the CPU and depend on the current shard (`global_batch`). The network is restored after the ``with`` block.

    Args:
        network: Any network with residual sites.
        rate: Rate in [0, 1] for all samples, or one rate per sample, float ``(N,)``. Samples of rate 0 do not change.
        linear: Increase the rate linearly with depth (Huang et al., section 3), up to ``rate`` at the last site.

    Raises:
        ValueError: A rate is outside [0, 1], the network has no residual sites, or (in the forward pass) the batch size
            differs from that of ``rate``.

    Example:
        >>> with stochastic_depth(network, 0.1):  # doctest: +SKIP
        ...     logits = network(images)
    """
    rates = torch.as_tensor(rate, dtype=torch.float64).detach().cpu()
    if not bool(((rates >= 0) & (rates <= 1)).all()):
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    sites = residual_sites(network)
    if not sites:
        raise ValueError(f"{type(network).__name__} has no residual branches that stochastic depth could drop")
    depths = [index / len(sites) if linear else 1 for index in range(1, len(sites) + 1)]
    drops = [(site, _Drop((1 - rates * depth).float())) for site, depth in zip(sites, depths, strict=True)]
    _active.append(drops)
    try:
        with _hooked(drops):
            yield
    finally:
        _active.pop()


def forward_with_sub_models(network: nn.Module, images: Sequence[Tensor], rates: Sequence[float]) -> Sequence[Tensor]:
    """Return the logits of several batches from one forward pass, each batch with its own rate of stochastic depth.

    Args:
        network: A network; it needs residual sites if a rate is above 0.
        images: Batches, float ``(N_k, 3, H, W)``, some of them possibly empty.
        rates: One rate per batch, in [0, 1]; 0 is the complete network.
    """
    sizes = [len(batch) for batch in images]
    if not any(size and rate for size, rate in zip(sizes, rates, strict=True)):
        return network(torch.cat(list(images))).split(sizes)
    with stochastic_depth(network, torch.tensor(rates).repeat_interleave(torch.tensor(sizes))):
        return network(torch.cat(list(images))).split(sizes)


def replay_sub_model(block: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """Return a context-manager factory that replays the drop masks of the block's next forward pass.

    Activation checkpointing repeats that pass during the backward pass. By then the ``stochastic_depth`` block has
    ended and the generator has advanced, so the repeated pass uses the recorded masks.
    """
    inside = {*block.modules()}
    drops = [(site, drop.factors, len(drop.factors)) for drops in _active for site, drop in drops if site in inside]
    return lambda: _hooked([(site, _Replay(factors[before:])) for site, factors, before in drops])


class _Drop:
    """Forward hook that drops a branch ``(N, ...)`` per sample: multiply by 1 / keep with probability keep, else by 0.

    Args:
        keep: Probability of keeping the branch, ``()`` or ``(N,)``.
    """

    def __init__(self, keep: Tensor) -> None:
        self.keep = keep
        self.factors: list[Tensor] = []  # of each forward pass
        self.scale = torch.where(keep > 0, 1 / keep.clamp(min=torch.finfo(keep.dtype).tiny), 0.0)

    def __call__(self, module: nn.Module, args: Any, branch: Tensor) -> Tensor:
        samples = len(branch)
        if self.keep.ndim and len(self.keep) != samples:
            raise ValueError(f"{len(self.keep)} rates for a batch of {samples}")
        factor = torch.where(uniform(samples) < self.keep, self.scale, 0.0)
        factor = to_device(factor.to(branch.dtype), branch)
        self.factors.append(factor.view(-1, *[1] * (branch.ndim - 1)))
        return branch * self.factors[-1]


class _Replay:
    """Forward hook that multiplies by the factors recorded by ``_Drop``, one per forward pass."""

    def __init__(self, factors: list[Tensor]) -> None:
        self.factors = iter(factors)

    def __call__(self, module: nn.Module, args: Any, branch: Tensor) -> Tensor:
        return branch * next(self.factors)


_active: list[list[tuple[nn.Module, _Drop]]] = []  # hooks of all active `stochastic_depth` blocks, outermost first


@contextmanager
def _hooked(drops: Sequence[tuple[nn.Module, _Drop | _Replay]]) -> Iterator[None]:
    with ExitStack() as stack:
        for site, drop in drops:
            stack.enter_context(_without_own_drop_path(site))
            stack.callback(site.register_forward_hook(drop).remove)
        yield


@contextmanager
def _without_own_drop_path(site: nn.Module) -> Iterator[None]:
    """Disable the site's own drop path (timm's ``DropPath.drop_prob``, torchvision's ``StochasticDepth.p``)."""
    own = [name for name in ("drop_prob", "p") if isinstance(getattr(site, name, None), float | int)]
    before = {name: getattr(site, name) for name in own}
    for name in own:
        setattr(site, name, 0.0)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(site, name, value)
