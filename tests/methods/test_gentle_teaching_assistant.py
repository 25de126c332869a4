"""Gentle Teaching Assistant: separate classifiers, weights, and updates of the three networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from semiseg.methods import Progress
from toy import make, make_batch, run, state

NAME = "gentle-teaching-assistant"
NOW = Progress(50, 100, 10)


def storages(network: nn.Module) -> dict[str, int]:
    return {name: parameter.untyped_storage().data_ptr() for name, parameter in network.named_parameters()}


def test_the_classifiers_share_no_storage() -> None:
    # In the authors' code, steps on the assistant's classifier change the student's after the first epoch.
    method = make(NAME, burn_in=0.1)
    run(method, [make_batch()] * 6, total_steps=20)  # burn-in, its end, and after
    student, assistant, teacher = (storages(n) for n in (method.student, method.assistant, method.teacher))
    assert not {*student.values()} & {*assistant.values()}
    assert not {*teacher.values()} & ({*student.values()} | {*assistant.values()})
    before = state(method.student)
    with torch.no_grad():
        for parameter in method.assistant.parameters():
            parameter.add_(1)
    assert torch.equal(state(method.student), before)


def test_share_classifier_option() -> None:
    method = make(NAME, share_classifier=True)
    assert method.student.head.weight is method.assistant.head.weight
    other = make(NAME, seed=5, share_classifier=True)
    other.load_state_dict(method.state_dict())
    assert other.student.head.weight is other.assistant.head.weight


def test_pseudo_labels_change_the_assistants_classifier_only() -> None:
    method, batch = make(NAME), make_batch()
    batch.masks.fill_(255)
    before = {key: value.clone() for key, value in method.named_parameters()}
    run(method, [batch] * 4, first=50)
    moved = {key for key, value in method.named_parameters() if not torch.equal(value, before[key])}
    assert {"assistant.head.weight", "assistant.head.bias"} <= moved
    assert not {"student.head.weight", "student.head.bias", "teacher.head.weight", "teacher.head.bias"} & moved
    assert "student.stem.0.weight" in moved  # receives the assistant's features


def test_the_student_receives_the_mean_of_the_assistants_features() -> None:
    method, batch, seen = make(NAME, burn_in=0.0, representation_decay=0.999), make_batch(), []
    batch.masks.fill_(255)  # no other loss changes the student
    run(method, [batch] * 5, after=lambda _: seen.append(method.assistant.stem[0].weight.detach().clone()))
    torch.testing.assert_close(method.student.stem[0].weight.detach(), torch.stack(seen).mean(dim=0))


def test_after_the_burn_in_all_three_are_equal() -> None:
    method = make(NAME, burn_in=0.2)
    run(method, [make_batch()] * 2, total_steps=10)
    assert torch.equal(state(method.student), state(method.assistant))
    assert torch.equal(state(method.student), state(method.teacher))


def test_gentle_weights_by_hand() -> None:
    """Confidences are 0.2, 0.4, 0.6, 0.8 and padding. The lowest is dropped: (1 + c) / (1 + 1.4 + 1.6 + 1.8)."""
    method = make(NAME, drop_percent=25.0)
    confidence = torch.tensor([[[0.2, 0.4, 0.6, 0.8, 0.9]]])
    valid = torch.tensor([[[True, True, True, True, False]]])
    omega, kept = method.gentle_weights(confidence, valid)
    torch.testing.assert_close(omega, torch.tensor([[[0.0, 1.4, 1.6, 1.8, 0.0]]]) / 5.8)
    assert kept == pytest.approx(0.75)
    omega, kept = method.gentle_weights(confidence, torch.zeros_like(valid))
    assert not omega.any() and kept == 0


def test_weights_come_from_the_teacher_on_mixed_images() -> None:
    method, inputs = make(NAME), []
    method.teacher.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    for seed in range(6):  # every second batch is mixed
        torch.manual_seed(seed)
        method(make_batch(), NOW)
    assert len(inputs) == 12
    assert any(not torch.equal(weak, mixed) for weak, mixed in zip(inputs[::2], inputs[1::2], strict=True))


def test_network_without_head_is_rejected() -> None:
    class Plain(nn.Conv2d):
        def __init__(self, classes: int) -> None:
            super().__init__(3, classes, 1)

    with pytest.raises(ValueError, match="no layer named head"):
        make(NAME, network=Plain)
