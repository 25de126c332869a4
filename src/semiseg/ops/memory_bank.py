"""Contrast between pixels and a memory of other pixels: class means, samples, negatives and a bank of each class.

All shapes are fixed, so that the host never waits for a GPU. M: number of cells, D: channels, C: number of classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semiseg.ops.global_batch import to_device, uniform


class MemoryBank(nn.Module):
    """A first-in first-out memory of vectors for each class, in the ``state_dict``.

    Attributes:
        vectors: float ``(C, S, D)`` of unit length, the newest of each class first. Unused entries are 0.
        filled: int64 ``(C,)``, number of entries of each class.
    """

    vectors: Tensor
    filled: Tensor

    def __init__(self, classes: int, size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(classes, size, channels))
        self.register_buffer("filled", torch.zeros(classes, dtype=torch.int64))

    @torch.no_grad()
    def push(self, vectors: Tensor, allowed: Tensor) -> None:
        """Add vectors, which replace the oldest ones if a bank is full.

        Args:
            vectors: float ``(C, K, D)``; they are normalized.
            allowed: bool ``(C, K)``, False for vectors that are not added.
        """
        size = self.vectors.shape[1]
        order = allowed.int().argsort(dim=1, descending=True, stable=True)
        new = F.normalize(vectors.float(), dim=2).take_along_dim(order[..., None], dim=1)
        added, slot = allowed.sum(dim=1, keepdim=True), torch.arange(size, device=allowed.device)
        source = torch.where(slot < added, slot, allowed.shape[1] + slot - added)
        self.vectors.copy_(torch.cat([new, self.vectors], dim=1).take_along_dim(source[..., None], dim=1))
        self.filled.copy_((self.filled + added[:, 0]).clamp(max=size))

    def similarity(self, anchors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Compare each anchor with ``count`` random entries of its class. The result depends on the current shard.

        Args:
            anchors: float ``(C, A, D)`` of unit length.
            count: Number of entries per anchor, sampled with replacement.

        Returns:
            Cosine similarity, float ``(C, A, count)``, and bool of that shape, False if the bank is empty.
        """
        sampled = to_device(uniform(*anchors.shape[:2], count), anchors) * self.filled[:, None, None]
        index = sampled.long().clamp(max=self.vectors.shape[1] - 1)
        similarity = (anchors @ self.vectors.mT).take_along_dim(index, dim=2)
        return similarity, (self.filled > 0)[:, None, None].expand_as(similarity)


def class_means(vectors: Tensor, classes: Tensor, count: int) -> Tensor:
    """Return the mean vector of each class, float ``(count, D)``; 0 for an absent class.

    Args:
        vectors: float ``(M, D)``.
        classes: int64 ``(M,)``, class index, or ``count`` for a cell that does not count.
        count: Number of classes.
    """
    sums = vectors.new_zeros(count + 1, vectors.shape[1]).index_add(0, classes, vectors)
    cells = vectors.new_zeros(count + 1).index_add(0, classes, torch.ones_like(vectors[:, 0]))
    return (sums / cells.clamp(min=1)[:, None])[:count]


def sample_members(members: Tensor, priority: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the members of highest priority of each class.

    Args:
        members: bool ``(C, M)``.
        priority: float ``(M,)``, at least 0.
        count: At least 1.

    Returns:
        Indices, int64 ``(C, min(count, M))``, and bool of that shape, False behind the last member.
    """
    scores, index = torch.where(members, priority, -1.0).topk(min(count, members.shape[1]), dim=1)
    return index, scores >= 0


def repeat_members(index: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat the first members of each class, so that it has as many as any other class; see `sample_members`."""
    members = present.sum(dim=1, keepdim=True)
    position = torch.arange(index.shape[1], device=index.device) % members.clamp(min=1)
    return index.take_along_dim(position, dim=1), (members > 0).expand_as(present)


def negative_classes(probabilities: Tensor, labels: Tensor, labeled: Tensor, low_rank: int, high_rank: int) -> Tensor:
    """Return the classes of which each cell is a negative example (U2PL, Wang et al. 2022, section 3.3).

    With ``O_j(c)``, the position of class c among the probabilities of cell j, from 0 for the largest:

    - a labeled cell is one for the likely but wrong classes, ``y_j != c`` and ``O_j(c) < low_rank``;
    - an unlabeled cell is one for the unlikely classes, ``low_rank <= O_j(c) < high_rank``.

    Args:
        probabilities: float ``(M, C)``.
        labels: int64 ``(M,)``, true class of labeled cells; others are not read.
        labeled: bool ``(M,)``.
        low_rank: r_l.
        high_rank: r_h.

    Returns:
        bool ``(M, C)``.
    """
    rank = probabilities.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    wrong = labels[:, None] != torch.arange(probabilities.shape[1], device=labels.device)
    likely = rank < low_rank
    return torch.where(labeled[:, None], likely & wrong, ~likely & (rank < high_rank))
