"""The weak view: image, mask and validity move together, as a function of the seed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from semiseg.data import IGNORE, weak_view
from semiseg.data.stream.weak_view import PADDING


def blocks(height: int, width: int, side: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an image of gray blocks, ten times the class of each block, and its mask."""
    rows, columns = torch.arange(height) // side, torch.arange(width) // side
    mask = ((rows[:, None] * 7 + columns) % 25).to(torch.uint8)
    return (mask * 10).expand(3, -1, -1).contiguous(), mask


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(1, 70),
    st.integers(0, 2**63 - 1),
    st.sampled_from([0.3, 1.0, 1.7]),
)
def test_shapes_types_and_padding(height: int, width: int, crop: int, seed: int, image_scale: float) -> None:
    image, mask = blocks(height, width)
    view, labels, valid = weak_view(image, mask, crop, seed, image_scale)
    assert view.shape == (3, crop, crop) and labels.shape == valid.shape == (crop, crop)
    assert (view.dtype, labels.dtype, valid.dtype) == (torch.uint8, torch.uint8, torch.bool)
    assert valid.any()
    assert (labels[~valid] == IGNORE).all() and (labels[valid] != IGNORE).all()
    assert (view[:, ~valid] == torch.tensor(PADDING)[:, None]).all()
    assert all(part.is_contiguous() for part in (view, labels, valid))


@pytest.mark.parametrize("seed", range(30))
def test_image_and_mask_move_together(seed: int) -> None:
    image, mask = blocks(96, 128, side=16)
    view, labels, valid = weak_view(image, mask, 64, seed)
    # Away from the edges of blocks, where the filter blends, the gray value still gives the class.
    agree = (view[0].int() - labels.int() * 10).abs() <= 1
    assert agree[valid].float().mean() > 0.7
    mirrored = (view[0].flip(1).int() - labels.int() * 10).abs() <= 1
    assert mirrored[valid].float().mean() < 0.7


def test_identity_view_returns_image() -> None:
    image, mask = blocks(64, 64)
    flipped = 0
    for seed in range(40):
        view, labels, valid = weak_view(image, mask, 64, seed, scale_range=(1.0, 1.0))
        flip = not torch.equal(view, image)
        flipped += flip
        assert torch.equal(view, image.flip(2) if flip else image)
        assert torch.equal(labels, mask.flip(1) if flip else mask) and valid.all()
    assert 10 <= flipped <= 30


def test_view_is_function_of_seed() -> None:
    image, mask = blocks(60, 80)
    first = weak_view(image, mask, 48, 5)
    torch.manual_seed(1)
    np.random.seed(1)
    again = weak_view(image, mask, 48, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    without = weak_view(image, None, 48, 5)
    assert torch.equal(without[0], first[0]) and torch.equal(without[2], first[2])
    assert (without[1] == IGNORE).all()
    assert any(not torch.equal(first[0], weak_view(image, mask, 48, seed)[0]) for seed in range(6, 9))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("image_scale", [0.25, 0.5, 1.0])
def test_view_equals_resize_then_crop(seed: int, image_scale: float) -> None:
    image = torch.randint(0, 256, (3, 60, 80), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    small, _, valid = weak_view(image, None, 24, seed, image_scale)
    # The same seed with a crop that contains everything: its valid part is the whole resized image.
    whole, _, all_valid = weak_view(image, None, 200, seed, image_scale)
    rows, columns = all_valid.any(1), all_valid.any(0)
    resized = whole[:, rows][:, :, columns]
    height, width = resized.shape[1:]
    source = Image.fromarray(image.permute(1, 2, 0).numpy())
    expected = np.asarray(source.resize((width, height), Image.Resampling.BILINEAR))
    upright = torch.from_numpy(expected.copy()).permute(2, 0, 1)
    assert any(torch.equal(resized, candidate) for candidate in (upright, upright.flip(2)))
    if valid.all():
        windows = resized.unfold(1, 24, 1).unfold(2, 24, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 24, 24)
        difference = (windows.to(torch.int16) - small.to(torch.int16)).abs().amax((1, 2, 3))
        assert difference.min() <= 2  # the box is float32; another position would differ by a hundred


@pytest.mark.parametrize("scale", [0.4, 0.75, 1.0, 1.6])
def test_mask_uses_nearest_pixel(scale: float) -> None:
    mask = torch.randint(0, 9, (50, 70), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    _, labels, valid = weak_view(mask.expand(3, -1, -1), mask, 128, 3, scale_range=(scale, scale))
    inside = labels[valid.any(1)][:, valid.any(0)].numpy()
    size = (round(70 * scale), round(50 * scale))
    expected = np.asarray(Image.fromarray(mask.numpy()).resize(size, Image.Resampling.NEAREST))
    assert any(np.array_equal(inside, candidate) for candidate in (expected, expected[:, ::-1]))


def test_mask_is_never_blended() -> None:
    mask = torch.zeros(50, 70, dtype=torch.uint8)
    mask[:, ::2] = 4
    image = mask.expand(3, -1, -1).contiguous()
    for seed in range(10):
        _, labels, _ = weak_view(image, mask, 40, seed)
        assert set(labels.unique().tolist()) <= {0, 4, IGNORE}


def test_scales_and_positions_span_their_ranges() -> None:
    image = torch.zeros(3, 100, 100, dtype=torch.uint8)
    widths, corners = [], []
    for seed in range(300):
        _, _, valid = weak_view(image, None, 220, seed)
        widths.append(valid.numpy().any(0).sum())
        corners.append(valid.numpy().any(1).argmax() / max(1, 220 - widths[-1]))
    assert min(widths) < 58 and max(widths) > 192 and 115 < np.mean(widths) < 135
    assert min(corners) < 0.05 and max(corners) > 0.95
