"""Activation checkpointing: identical steps with less memory."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from semiseg.config import TrainConfig
from semiseg.data import Shapes
from semiseg.errors import UserError
from semiseg.methods import METHODS, Progress
from semiseg.networks import build
from semiseg.ops.activation_checkpointing import recomputable_blocks, recompute_activations
from semiseg.ops.stochastic_depth import stochastic_depth
from semiseg.training.build import make_method, networks
from toy import Toy, make_batch

QUICK = TrainConfig(architecture="deeplabv3plus", encoder="test_resnet", weights="none")
DATA = Shapes(images=4, val=1, test=1, size=48)
ENCODERS = (
    *(("deeplabv3plus-separable", "tf_efficientnet_lite0"), ("segformer", "mit_b0"), ("deeplabv3plus", "resnet18")),
    *(("segformer", "convnext_atto"), ("dpt", "vit_tiny_patch16_224"), ("deeplabv3plus-separable", "mobilenet_v2")),
)


def two_steps(name: str, config: TrainConfig) -> list[dict[str, Tensor]]:
    """Return loss, gradients, weights and buffers of two steps of SGD."""
    strong = {"drop_path": 0.5, "consistency_weight": 1.0} if name == "dual-teacher" else {}
    method = make_method(replace(config, method=name), METHODS[name].Options(**strong), DATA).train()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.01)
    seen = []
    for step in (50, 51):
        torch.manual_seed(step)
        progress = Progress(step, 100, 10)
        output = method(make_batch(len(DATA.classes), side=32, seed=step), progress)
        output.loss.backward()
        gradients = {f"gradient of {k}": p.grad.clone() for k, p in method.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(progress)
        state = {key: value.clone() for key, value in method.state_dict().items()}
        seen.append({"loss": output.loss.detach()} | output.scalars | gradients | state)
    return seen


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def kept_bytes(network: nn.Module, images: Tensor) -> int:
    """Return the bytes that autograd saves in a forward pass, without weights, counting each storage once."""
    weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    kept = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor.detach()  # an output that its own node saves is a cycle that Python cannot free

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(images)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize(
    "name",
    ["dual-teacher", *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "dual-teacher")],
)
def test_recomputing_does_not_change_any_method(name: str) -> None:
    plain = two_steps(name, QUICK)
    again = two_steps(name, replace(QUICK, activation_checkpointing=True))
    for ours, theirs in zip(again, plain, strict=True):
        assert_equal(ours, theirs)


@pytest.mark.parametrize(
    ("architecture", "encoder"), [ENCODERS[0], *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ENCODERS[1:])]
)
def test_recomputing_saves_memory_and_does_not_change_gradients(architecture: str, encoder: str) -> None:
    torch.manual_seed(0)
    plain = build(architecture, encoder, 3, "none").train()
    again = deepcopy(plain)
    recompute_activations(again.encoder)
    images, rate = torch.rand(3, 3, 64, 64), torch.tensor([0.0, 0.3, 0.9])
    states = []
    for network in (plain, again):
        torch.manual_seed(1)
        with stochastic_depth(network, rate):
            logits = network(images)
        torch.rand(7)  # the generator moves on before the backward pass
        logits.square().mean().backward()
        gradients = {f"gradient of {k}": p.grad for k, p in network.named_parameters() if p.grad is not None}
        states.append(gradients | network.state_dict() | {"generator": torch.get_rng_state()})
    assert_equal(states[1], states[0])
    assert kept_bytes(again, images) < 0.8 * kept_bytes(plain, images)


def test_recomputing_halves_memory_of_deeplabv3plus() -> None:
    with torch.device("meta"):
        images = torch.empty(2, 3, 321, 321)
    network = build("deeplabv3plus", "resnet50", 21, "none").to("meta").train()
    plain = kept_bytes(network, images)
    assert len(recompute_activations(network.encoder)) == 16
    assert kept_bytes(network, images) < plain / 2


def test_recomputing_repeats_dropout() -> None:
    torch.manual_seed(0)
    plain = Toy()
    for block in plain.blocks:
        block.drop_path = nn.Dropout(0.5)
    again = deepcopy(plain)
    assert recompute_activations(again) == list(again.blocks)
    for network in (plain, again):
        torch.manual_seed(2)
        network(torch.rand(2, 3, 16, 16)).square().mean().backward()
    for ours, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_deep_copy_uses_its_own_weights() -> None:
    network = Toy().eval()
    recompute_activations(network)
    images, copy = torch.rand(1, 3, 16, 16), deepcopy(network)
    before = copy(images)
    with torch.no_grad():
        for parameter in network.blocks.parameters():
            parameter.zero_()
    assert torch.equal(copy(images), before) and not torch.equal(network(images), before)


def test_second_backward_pass_through_the_same_graph() -> None:
    network = Toy()
    recompute_activations(network)
    with stochastic_depth(network, 0.5):
        loss = network(torch.rand(4, 3, 16, 16)).square().mean()
    one, two = (torch.autograd.grad(loss, list(network.parameters()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_only_the_student_is_checkpointed() -> None:
    config = replace(QUICK, activation_checkpointing=True)
    method = make_method(config, METHODS["dual-teacher"].Options(), DATA)
    assert networks(method, trainable=True) == [method.student]
    wrapped = [module for module in method.modules() if "forward" in vars(module)]
    assert wrapped == recomputable_blocks(method.student.encoder) != []
    assert method.state_dict().keys() == make_method(QUICK, METHODS["dual-teacher"].Options(), DATA).state_dict().keys()


def test_networks_without_blocks_are_rejected() -> None:
    with pytest.raises(ValueError, match="no residual blocks"):
        recompute_activations(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()))
    with pytest.raises(UserError, match="--activation-checkpointing: has no effect with --freeze-encoder"):
        TrainConfig(freeze_encoder=True, activation_checkpointing=True)
