"""Stochastic depth gives unbiased sub-models of CNNs and transformers and restores the network."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from semiseg.networks import build
from semiseg.networks.encoders import make_encoder
from semiseg.ops.stochastic_depth import residual_sites, stochastic_depth

# Counted by hand: residual blocks of the published architectures with a skip connection.
SITES = {
    "resnet18": 8,  # 2 + 2 + 2 + 2 basic blocks
    "resnet50": 16,  # 3 + 4 + 6 + 3 bottlenecks
    "seresnet18": 8,
    "skresnet18": 8,
    "se_resnet50": 16,  # smp's own
    "tf_efficientnet_lite0": 9,  # 16 blocks, of which the first of each of 7 stages has no skip
    "efficientnet-b0": 9,  # smp's own
    "mobilenet_v2": 10,  # smp's, with torchvision's blocks: 17, of which the first of each of 7 stages has no skip
    "mit_b0": 8,  # 2 + 2 + 2 + 2 blocks; each site is applied to attention and to the MLP
    "convnext_atto": 12,  # 2 + 2 + 6 + 2
    "pvt_v2_b0": 16,  # 2 + 2 + 2 + 2 blocks, attention and MLP
    "regnetx_002": 13,  # 1 + 1 + 4 + 7
    "repvgg_a0": 17,  # 22 blocks, of which the first of each of 5 stages has no identity
}
KINDS = ("resnet18", "resnet26", "tf_efficientnet_lite0", "mit_b0")  # basic blocks, bottlenecks, ...


class Zero(nn.Module):
    """A branch that returns 0."""

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        return torch.zeros_like(x)


def natural(network: nn.Module) -> nn.Module:
    """Return the network in eval mode with BatchNorm scales such that every branch contributes (some start at 0)."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return network.eval()


@lru_cache(maxsize=len(KINDS))
def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return natural(make_encoder(name)[0])


def made(name: str) -> nn.Module:
    """Return a copy of the encoder, which a test may change."""
    torch.manual_seed(0)
    return deepcopy(built(name))


@pytest.fixture(params=KINDS)
def encoder(request: pytest.FixtureRequest) -> nn.Module:
    return made(request.param)


def images(samples: int, side: int = 32) -> Tensor:
    return torch.rand(samples, 3, side, side, generator=torch.Generator().manual_seed(1))


def blocks_of(encoder: nn.Module) -> list[nn.Module]:
    """Return every block around a residual site."""
    sites = residual_sites(encoder)
    return [block for block in encoder.modules() if any(child is site for child in block.children() for site in sites)]


def input_of(encoder: nn.Module, block: nn.Module) -> tuple[Any, ...]:
    """Return the input of ``block`` for one image."""
    inputs: list[tuple[Any, ...]] = []
    with block.register_forward_pre_hook(lambda _, args: inputs.append(args)), torch.no_grad():
        encoder(images(1))
    # Copies, since a block may work in place.
    return tuple(value.clone() if isinstance(value, Tensor) else value for value in inputs[0])


@pytest.mark.parametrize("name", SITES)
def test_number_of_residual_sites(name: str) -> None:
    assert len(residual_sites(make_encoder(name)[0])) == SITES[name]


def test_sites_of_a_vision_transformer_are_both_branches_of_each_block() -> None:
    assert len(residual_sites(timm.create_model("vit_tiny_patch16_224", drop_path_rate=0.1))) == 2 * 12


@pytest.mark.parametrize("architecture", ["deeplabv3plus", "deeplabv3plus-separable", "segformer"])
def test_a_network_has_the_sites_of_its_encoder(architecture: str) -> None:
    assert len(residual_sites(build(architecture, "resnet18", 3, "none"))) == SITES["resnet18"]


def test_sites_are_in_order_of_depth(encoder: nn.Module) -> None:
    order: list[int] = []

    def note(index: int) -> Callable[..., None]:
        return lambda *_: order.append(index)

    sites = residual_sites(encoder)
    for index, site in enumerate(sites):
        site.register_forward_hook(note(index))
    encoder(images(1))
    assert order == sorted(order)
    assert set(order) == set(range(len(sites)))


def test_at_rate_one_each_block_equals_its_skip_path(encoder: nn.Module) -> None:
    blocks = blocks_of(encoder)
    assert len(blocks) == len(residual_sites(encoder))
    for block in blocks:
        arguments = input_of(encoder, block)
        skip = arguments[0].clone()
        if getattr(block, "downsample", None) is not None:
            skip = block.downsample(skip)
        if hasattr(block, "act2") and hasattr(block, "downsample"):  # ResNet ends with an activation
            skip = skip.relu()
        assert not torch.equal(block(*arguments), skip)
        with stochastic_depth(encoder, 1.0, linear=False):
            assert torch.equal(block(*arguments), skip)


def test_blocks_without_a_skip_path_stay_whole() -> None:
    encoder = made("tf_efficientnet_lite0")
    blocks = [block for block in encoder.modules() if getattr(block, "has_skip", True) is False]
    assert len(blocks) == 7
    for block in blocks:
        arguments = input_of(encoder, block)
        full = block(*arguments)
        with stochastic_depth(encoder, 1.0, linear=False):
            assert torch.equal(block(*arguments), full)


@pytest.mark.parametrize("name", [*KINDS, "mit_b0 MLP"])
def test_mean_over_many_samples_is_the_full_block(name: str) -> None:
    """The mean is within three standard errors. All values of a sample share its random number."""
    encoder = made(name.split()[0])
    block = blocks_of(encoder)[-1]
    # Without non-linear parts: ResNet's last activation, the other half of a transformer's block.
    if name.startswith("resnet"):
        setattr(block, "act2" if name == "resnet18" else "act3", nn.Identity())
    elif name.startswith("mit"):
        setattr(block, "attn" if name.endswith("MLP") else "mlp", Zero())
    arguments = input_of(encoder, block)
    samples = 1000
    with torch.no_grad():
        full = block(*arguments)
        with stochastic_depth(encoder, 0.3, linear=False):
            outputs = block(arguments[0].expand(samples, *arguments[0].shape[1:]).clone(), *arguments[1:])
    outputs, full = outputs.double().flatten(1), full.double().flatten()
    largest = (outputs[outputs.ne(outputs[0]).any(dim=1)][0] - outputs[0]).abs().argmax()
    values = outputs[:, largest]
    assert abs(values.mean() - full[largest]) < 3 * values.std() / samples**0.5
    assert 0.2 < (values - values[0]).abs().gt(1e-6).double().mean() < 0.8  # there are two outcomes


def test_rate_grows_linearly_with_depth() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.ModuleDict({"drop_path": nn.Identity()}) for _ in range(4))

    chain, samples = Chain(), 4000
    torch.manual_seed(0)
    with stochastic_depth(chain, 0.8):
        results = [block["drop_path"](torch.ones(samples, 2)) for block in chain.blocks]
    for result, rate in zip(results, (0.2, 0.4, 0.6, 0.8), strict=True):
        assert torch.equal(result[:, 0], result[:, 1])  # one random number per sample
        share = (result[:, 0] == 0).double().mean()
        assert abs(share - rate) < 3 * (rate * (1 - rate) / samples) ** 0.5
        torch.testing.assert_close(result.max(), torch.tensor(1 / (1 - rate)))


def test_dropped_samples_give_the_branch_no_gradient(encoder: nn.Module) -> None:
    encoder.train()
    features = {}
    for rate in (0.0, 1.0):
        encoder.zero_grad()
        with stochastic_depth(encoder, rate, linear=False):
            sum(feature.square().sum() for feature in encoder(images(2))[2:]).backward()
        features[rate] = [_branch_gradient(block) for block in blocks_of(encoder)]
    assert min(features[0.0]) > 0
    assert max(features[1.0]) == 0


def _branch_gradient(block: nn.Module) -> float:
    gradients = [
        parameter.grad.abs().sum().item()
        for name, parameter in block.named_parameters()
        if not name.startswith("downsample") and parameter.grad is not None
    ]
    return sum(gradients)


def test_only_the_dropped_sample_loses_its_gradient(encoder: nn.Module) -> None:
    x = images(2).requires_grad_()
    block = blocks_of(encoder)[-1]
    gradients: list[Tensor] = []
    parameter = next(p for name, p in block.named_parameters() if not name.startswith("downsample"))
    for rates in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]):
        encoder.zero_grad()
        with stochastic_depth(encoder, torch.tensor(rates), linear=False):
            encoder(x)[-1][0].square().sum().backward()  # the loss is of sample 0
        assert parameter.grad is not None
        gradients.append(parameter.grad.clone())
    assert gradients[0].any()
    assert not gradients[1].any()
    torch.testing.assert_close(gradients[2], gradients[0])


def test_samples_of_rate_zero_come_out_bit_identical(encoder: nn.Module) -> None:
    x = images(4)
    with torch.no_grad():
        before = encoder(x)[-1]
        with stochastic_depth(encoder, torch.tensor([0.0, 0.9, 0.0, 0.9])):
            inside = encoder(x)[-1]
    same = [torch.equal(a, b) for a, b in zip(before, inside, strict=True)]
    assert same == [True, False, True, False]


def test_seed_determines_the_sub_model_in_both_modes(encoder: nn.Module) -> None:
    def sample(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with stochastic_depth(encoder, 0.5), torch.no_grad():
            return encoder(images(4))[-1]

    encoder.eval()
    assert torch.equal(sample(1), sample(1))
    assert not torch.equal(sample(1), sample(2))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_network_is_restored_after_the_block(name: str, fails: bool) -> None:
    torch.manual_seed(0)
    encoder = timm.create_model(name, drop_path_rate=0.2) if timm.is_model(name) else make_encoder(name)[0]
    natural(encoder)
    x = images(2)

    def hooks_and_modes() -> tuple[Any, ...]:
        modules = dict(encoder.named_modules())
        hooks = {key: len(module._forward_hooks) for key, module in modules.items()}
        rates = [getattr(site, "drop_prob", 0.0) for site in residual_sites(encoder)]
        return {key: type(module) for key, module in modules.items()}, hooks, rates, list(encoder.state_dict())

    def outputs() -> Tensor:
        result = encoder(x)
        return result[-1] if isinstance(result, list) else result

    before, reference, state = hooks_and_modes(), outputs(), {k: v.clone() for k, v in encoder.state_dict().items()}
    assert any(before[2])  # its own rate, to be restored
    try:
        with stochastic_depth(encoder, 0.5), torch.no_grad():
            assert not torch.equal(outputs(), reference)
            assert not any(hooks_and_modes()[2])
            assert list(encoder.state_dict()) == before[3]
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert hooks_and_modes() == before
    assert torch.equal(outputs(), reference)
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())


def test_invalid_arguments_are_rejected() -> None:
    resnet = made("resnet18")
    for rate in (-0.1, 1.1, float("nan"), torch.tensor([0.5, 2.0])):
        with pytest.raises(ValueError, match="rate must be in"), stochastic_depth(resnet, rate):
            pass
    with pytest.raises(ValueError, match="no residual"), stochastic_depth(nn.Conv2d(3, 3, 1), 0.1):
        pass
    with pytest.raises(ValueError, match="3 rates for a batch of 2"), stochastic_depth(resnet, torch.zeros(3)):
        resnet(images(2))
    assert not any(module._forward_hooks for module in resnet.modules())


def test_half_precision_keeps_its_type() -> None:
    encoder = made("tf_efficientnet_lite0")
    with torch.autocast("cpu", torch.bfloat16), stochastic_depth(encoder, 0.5):
        assert encoder(images(2))[-1].dtype == torch.bfloat16
