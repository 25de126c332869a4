"""Blended windows, the estimate of memory, and the choice between whole images and windows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semiseg.errors import UserError
from semiseg.inference import bounded_predictor
from semiseg.inference.bounded_predictor import BoundedPredictor
from semiseg.inference.files.image_source import MemoryImage
from semiseg.inference.formats.prediction_writer import CONFIDENCE, MASK, PredictionWriter
from semiseg.inference.memory_estimate import available_memory, bytes_per_pixel, is_allocation_error
from semiseg.inference.predictor import Predictor, window_starts
from semiseg.inference.windows import Region, predict_windows

IMAGE = torch.randint(0, 256, (3, 45, 67), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


class Pointwise(nn.Module):
    def __init__(self, seed: int = 0, kernel: int = 1) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, 4, kernel, padding=kernel // 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = 5 * self.layer(images)
        return logits


def joined(regions: Iterable[Region], size: tuple[int, int]) -> Tensor:
    """Join disjoint regions that must cover the image."""
    result = torch.full((4, *size), torch.nan)
    for top, left, probabilities in regions:
        height, width = probabilities.shape[-2:]
        place = result[:, top : top + height, left : left + width]
        assert place.shape == probabilities.shape and place.isnan().all()
        place[:] = probabilities
    assert not result.isnan().any()
    return result


def in_windows(networks: nn.Module | list[nn.Module], window: int, buffer_bytes: int, scale: float = 1.0) -> Tensor:
    predictor, image = Predictor(networks, image_scale=scale), MemoryImage(IMAGE, "image")
    return joined(predict_windows(predictor, image.read, image.size, window, buffer_bytes), image.size)


@pytest.mark.parametrize("window", [1, 2, 7, 32, 100])
@pytest.mark.parametrize("buffer_bytes", [1, 4 * 4 * 32 * 40, 2**28])
def test_windows_equal_the_whole_image_without_context(window: int, buffer_bytes: int) -> None:
    networks: list[nn.Module] = [Pointwise(0), Pointwise(1)]
    expected = Predictor(networks).probabilities(IMAGE)
    torch.testing.assert_close(in_windows(networks, window, buffer_bytes), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_windows_are_averaged_with_weights_that_fall_towards_their_border(scale: float) -> None:
    network, window = Pointwise(kernel=5), 12
    total, weights = np.zeros((4, 45, 67)), np.zeros((45, 67))
    ramp = np.minimum(np.minimum(np.arange(12), np.arange(12)[::-1]) + 1, 5) / 5
    for top in window_starts(45, window):
        for left in window_starts(67, window):
            crop = IMAGE[:, top : top + window, left : left + window]
            probabilities = Predictor(network, image_scale=scale).probabilities(crop).double().numpy()
            total[:, top : top + window, left : left + window] += probabilities * np.outer(ramp, ramp)
            weights[top : top + window, left : left + window] += np.outer(ramp, ramp)
    for buffer_bytes in (1, 2**28):
        result = in_windows(network, window, buffer_bytes, scale)
        np.testing.assert_allclose(result.numpy(), total / weights, atol=1e-6)


def test_one_window_equals_the_whole_image() -> None:
    network = Pointwise(kernel=5)
    expected = Predictor(network).probabilities(IMAGE)
    torch.testing.assert_close(in_windows(network, 67, 2**28), expected, atol=1e-6, rtol=0)


def test_accumulated_probabilities_are_bounded_by_rows_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tall image needs no more memory than a short one."""
    peaks = []
    for height in (64, 640):
        image = MemoryImage(torch.zeros(3, height, 64, dtype=torch.uint8), "image")
        sizes = [
            region.probabilities.numel()
            for region in predict_windows(Predictor(Pointwise()), image.read, image.size, 32)
        ]
        peaks.append(max(sizes))
    assert peaks[0] == peaks[1] <= 4 * 32 * 64


def test_bytes_per_pixel_are_those_of_the_largest_tensors() -> None:
    # float32: image 3 and its uint8 copy, logits and 5 * logits, probabilities
    assert 4 * (3 + 4 + 4) <= bytes_per_pixel(Predictor(Pointwise())) <= 4 * (3 + 4 * 4) + 3
    half = bytes_per_pixel(Predictor(Pointwise(), image_scale=0.5))
    assert half == pytest.approx(bytes_per_pixel(Predictor(Pointwise(), image_scale=0.5)))


def test_available_memory_is_positive_and_bounded_by_an_address_space_limit() -> None:
    assert 0 < available_memory(torch.device("cpu")) < 2**50


def regions(predictor: BoundedPredictor) -> list[Region]:
    return list(predictor.regions(MemoryImage(IMAGE, "photo.jpg")))


def test_images_that_fit_are_bit_identical_to_the_predictor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_predictor, "ALWAYS_FITS", 0)
    predictor = Predictor(Pointwise(kernel=5))
    (region,) = regions(BoundedPredictor(predictor, 16))
    assert torch.equal(region.probabilities, predictor.probabilities(IMAGE))


def test_an_image_that_does_not_fit_is_predicted_in_windows_with_one_note(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bounded_predictor, "ALWAYS_FITS", 0)
    predictor = BoundedPredictor(Predictor(Pointwise(), image_scale=0.5), 16, window=16, processes=2)
    needed = predictor.predictor.peak_pixels(45, 67) * bytes_per_pixel(predictor.predictor)
    monkeypatch.setattr(bounded_predictor, "available_memory", lambda device: 2 * needed / 0.8 + 8)
    assert predictor.fits((45, 67))
    monkeypatch.setattr(bounded_predictor, "available_memory", lambda device: 2 * needed / 0.8 - 8)
    assert not predictor.fits((45, 67))
    assert len(regions(predictor)) > 1 and len(regions(predictor)) > 1
    text = (
        "note: photo.jpg: 67 x 45 pixels do not fit into memory at once. Predicting such images in windows of 32 pixels"
    )
    assert capsys.readouterr().err.splitlines() == [text]


def test_windows_that_auto_chooses_are_as_large_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(Pointwise())
    needed = bytes_per_pixel(predictor)
    for pixels, expected in ((1024**2, 1024), (300**2, 256), (10, 100)):
        monkeypatch.setattr(bounded_predictor, "available_memory", lambda device, pixels=pixels: pixels * needed / 0.79)
        assert BoundedPredictor(predictor, 100).window_side() == expected
    assert BoundedPredictor(predictor, 1500).window_side() == 1500
    assert BoundedPredictor(predictor, 100, "slide").window_side() == 100


class Exhausting(Pointwise):
    """Fails like PyTorch's allocator for images of more than ``limit`` pixels."""

    limit = 16 * 16

    def forward(self, images: Tensor) -> Tensor:
        if images[0, 0].numel() > self.limit:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            )
        return super().forward(images)


def test_a_failed_allocation_falls_back_to_windows() -> None:
    network = Exhausting()
    result = joined(regions(BoundedPredictor(Predictor(network), 16)), (45, 67))
    network.limit = 10**6
    torch.testing.assert_close(result, Predictor(network).probabilities(IMAGE), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("mode", "fix"), [("whole", "Pass --mode slide"), ("slide", "Pass a smaller --window")])
def test_exhausted_memory_is_an_error_of_the_image(mode: str, fix: str) -> None:
    with pytest.raises(UserError, match=f"photo.jpg: 67 x 45 pixels do not fit into the available memory. {fix}"):
        regions(BoundedPredictor(Predictor(Exhausting()), 20, mode))


def test_other_errors_are_not_taken_for_exhausted_memory() -> None:
    assert is_allocation_error(torch.OutOfMemoryError("CUDA out of memory")) and is_allocation_error(MemoryError())
    assert not is_allocation_error(RuntimeError("size mismatch")) and not is_allocation_error(ValueError("allocate"))


def test_a_mask_alone_needs_no_probabilities() -> None:
    predictor = BoundedPredictor(Predictor(Pointwise(kernel=5)), 16)
    colors = [(index, 0, 0) for index in range(4)]
    masks = [
        PredictionWriter(predictor, "abcd", colors, kinds).arrays(MemoryImage(IMAGE, "photo.jpg"))[MASK]
        for kinds in ([MASK], [MASK, CONFIDENCE])
    ]
    assert np.array_equal(*masks)
    assert len(np.unique(masks[0])) > 1
    for needed in (True, False):
        (region,) = predictor.regions(MemoryImage(IMAGE, "photo.jpg"), needed)
        ones = torch.ones(region.probabilities.shape[1:])
        assert torch.allclose(region.probabilities.sum(dim=0), ones) == needed
