"""U2PL: percentiles of entropy, class means, ranks of negatives, memories, and the gradient of the contrast."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from semiseg.methods import Progress
from semiseg.methods.u2pl import reliable_weights
from semiseg.ops import global_batch
from semiseg.ops.features import to_nearest_cells, watch_head
from semiseg.ops.memory_bank import MemoryBank, class_means, negative_classes, repeat_members, sample_members
from semiseg.ops.pseudo_labels import entropy
from toy import gradients, make, make_batch, run

NOW = Progress(step=30, total_steps=100, steps_per_epoch=10)


def test_reliable_pixels_by_hand() -> None:
    two = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])[..., None]  # probabilities (1/2, 1/2) and (1/4, 3/4)
    expected = [math.log(2), math.log(4) - 0.75 * math.log(3)]
    assert entropy(two)[:, 0].tolist() == pytest.approx(expected)
    uncertainty = torch.tensor([[[0.1, 0.2, 0.3, 0.4, 0.0]]])
    valid = torch.tensor([[[True, True, True, True, False]]])
    weights, kept = reliable_weights(uncertainty, valid, 40)  # percentile 60 of four values: 0.28
    assert kept == pytest.approx(0.5)
    torch.testing.assert_close(weights, torch.tensor([[[1.0, 1, 0, 0, 0]]]) * 4 / 2 / 2)  # |V| / |K| / |K|
    weights, kept = reliable_weights(uncertainty, valid, 0)
    assert kept == 1 and weights.sum() == pytest.approx(1)
    weights, kept = reliable_weights(uncertainty, torch.zeros_like(valid), 20)
    assert not weights.any() and kept == 0


def test_class_means_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0], [9.0, 9.0]])
    means = class_means(vectors, torch.tensor([0, 0, 2, 3]), 3)  # the last one does not count, class 1 is absent
    assert means.tolist() == [[2.0, 1.0], [0.0, 0.0], [5.0, 5.0]]


def test_ranks_of_negatives_by_hand() -> None:
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3]] * 2)  # ranks 3, 0, 2, 1
    found = negative_classes(p, torch.tensor([3, 1]), torch.tensor([True, False]), 2, 3)
    assert found.tolist() == [[False, True, False, False], [False, False, True, False]]
    found = negative_classes(p[:, :2], torch.tensor([0, 1]), torch.tensor([True, False]), 3, 20)
    assert found.tolist() == [[False, True], [False, False]]  # two classes: labels only


def test_bank_is_first_in_first_out_for_each_class() -> None:
    def unit(*degrees: float) -> torch.Tensor:
        angle = torch.tensor(degrees) * math.pi / 180
        return 2 * torch.stack([angle.cos(), angle.sin()], dim=1)

    bank = MemoryBank(2, 3, 2)
    bank.push(torch.stack([unit(10, 20), unit(50, 60)]), torch.tensor([[True, True], [False, True]]))
    assert bank.filled.tolist() == [2, 1]
    bank.push(torch.stack([unit(30, 40), unit(70, 80)]), torch.tensor([[True, True], [False, False]]))
    assert bank.filled.tolist() == [3, 1]
    torch.testing.assert_close(bank.vectors[0], unit(30, 40, 10) / 2)
    torch.testing.assert_close(bank.vectors[1, :1], unit(60) / 2)
    assert not bank.vectors[1, 1:].any()
    bank.push(torch.stack([unit(1, 2, 3, 4)] * 2), torch.ones(2, 4, dtype=torch.bool))  # more than it holds
    torch.testing.assert_close(bank.vectors, torch.stack([unit(1, 2, 3)] * 2) / 2)


def test_negatives_are_entries_of_the_class_of_the_anchor() -> None:
    bank = MemoryBank(2, 5, 2)
    bank.push(torch.tensor([[[0.0, 3.0]], [[1.0, 0.0]]]), torch.tensor([[True], [False]]))
    similarity, allowed = bank.similarity(torch.tensor([[[0.6, 0.8]], [[1.0, 0.0]]]), 4)
    assert similarity[0, 0].tolist() == pytest.approx([0.8] * 4)
    assert allowed[0].all() and not allowed[1].any()


def test_samples_of_a_class_repeat_its_members() -> None:
    members = torch.tensor([[True, False, True, True], [False, True, False, False], [False] * 4])
    index, present = sample_members(members, torch.tensor([0.3, 0.9, 0.0, 0.5]), 3)
    assert index[0].tolist() == [3, 0, 2] and present.sum(dim=1).tolist() == [3, 1, 0]
    index, present = repeat_members(index, present)
    assert index[:2].tolist() == [[3, 0, 2], [1, 1, 1]] and present.tolist() == [[True] * 3, [True] * 3, [False] * 3]


def test_cells_have_the_label_at_their_center() -> None:
    labels = torch.arange(12).view(1, 3, 4)
    cells = to_nearest_cells(labels, [torch.zeros(1, 3, 6, 6)], (2, 2), 255)  # padded to 6 x 6
    assert cells.tolist() == [[[5, 255], [255, 255]]]


def test_head_is_watched_inside_the_block_only() -> None:
    network = make("u2pl").student.eval()
    with watch_head(network) as seen:
        logits = network(torch.zeros(1, 3, 8, 8))
    network(torch.zeros(1, 3, 8, 8))
    assert len(seen) == 2 and seen[0].shape == (1, 16, 8, 8) and torch.equal(seen[1], logits)


def test_contrast_trains_student_and_projector_but_not_the_teacher() -> None:
    method = make("u2pl", unsupervised_weight=0.0, bank_size=40)
    run(method, [make_batch(seed=seed) for seed in range(3)], total_steps=100, first=28)
    assert method.bank.filled.any()
    output = method(make_batch(), NOW)
    assert output.scalars["loss/consistency"] > 0
    alone = make("u2pl", unsupervised_weight=0.0, contrast_weight=0.0)
    alone.load_state_dict({k: v for k, v in method.state_dict().items() if "bank" not in k}, strict=False)
    output.loss.backward()
    alone(make_batch(), NOW).loss.backward()
    assert gradients(method.projector).any() and not gradients(alone.projector).any()
    assert not torch.equal(gradients(method.student), gradients(alone.student))
    assert all(p.grad is None for p in (*method.teacher.parameters(), *method.teacher_projector.parameters()))


def test_student_and_teacher_are_equal_at_the_end_of_the_burn_in() -> None:
    method = make("u2pl", burn_in=0.5)
    run(method, [make_batch()] * 3, total_steps=20)
    for name, value in method.student.state_dict().items():
        assert torch.equal(method.teacher.state_dict()[name], value), name
    assert not method.bank.filled.any()


def test_banks_hold_the_pixels_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(out: list[torch.Tensor], own: torch.Tensor) -> None:
        for rank, tensor in enumerate(out):
            tensor.copy_(own + rank)

    monkeypatch.setattr(torch.distributed, "all_gather", gather)
    with global_batch.use_shard(global_batch.Shard(processes=2)):
        assert global_batch.concatenate(torch.tensor([[1.0], [2.0]])).tolist() == [[1], [2], [2], [3]]


def test_network_without_head_is_rejected() -> None:
    with pytest.raises(ValueError, match="no convolution named head"):
        make("u2pl", network=lambda classes: nn.Conv2d(3, classes, 1))
