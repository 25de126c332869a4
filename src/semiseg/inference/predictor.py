"""Predict class and confidence for every pixel of an image of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from semiseg.data.files.pixel_format import RGB, PixelFormat
from semiseg.errors import UserError
from semiseg.inference.folded_network import fold

MODES = ("whole", "slide")
WINDOWS_AT_ONCE = 4  # bounds memory; four crops are about a training batch


class Prediction(NamedTuple):
    """Predicted classes ``mask`` uint8 ``(H, W)`` and ``confidence`` float32 ``(H, W)`` in [0, 1]."""

    mask: Tensor
    confidence: Tensor


class Predictor:
    """Predict the classes of one image at its own size.

    On a CPU, copies of the networks compute faster (`fold`); they are made again after the weights have changed.

    Args:
        networks: One network, or several whose probabilities are averaged. Each maps images float
            ``(N, channels, H, W)`` in [0, 1] to logits ``(N, C, H, W)``. They are in eval mode during each call and
            restored afterwards.
        mode: ``whole`` processes the whole image at once. ``slide`` moves a square window over it with a stride of two
            thirds of the window, shifts the last window inside, and averages probabilities where windows overlap.
        crop_size: The side of the window for ``slide``, in pixels of the resized image.
        image_scale: The image is resized by this factor (antialiased) for the network; the logits are resized back.
        device: The device of the networks (default: that of the first network). Images are moved there.
        pixel_format: How image files have to be read for these networks.

    Raises:
        ValueError: An unknown mode, ``slide`` without a crop size, a scale that is not positive, or no networks.
    """

    def __init__(
        self,
        networks: nn.Module | Sequence[nn.Module],
        mode: str = "whole",
        crop_size: int | None = None,
        image_scale: float = 1.0,
        device: torch.device | str | None = None,
        pixel_format: PixelFormat = RGB,
    ) -> None:
        self.networks = [networks] if isinstance(networks, nn.Module) else list(networks)
        if not self.networks:
            raise ValueError("a predictor needs at least one network")
        if mode not in MODES:
            raise ValueError(f"unknown mode '{mode}', choose from {', '.join(MODES)}")
        if mode == "slide" and (crop_size is None or crop_size < 1):
            raise ValueError(f"mode 'slide' needs a crop size of at least 1, got {crop_size}")
        if image_scale <= 0:
            raise ValueError(f"the image scale must be positive, got {image_scale}")
        self.channels: int = getattr(self.networks[0], "channels", 3)
        self.window = crop_size if mode == "slide" else None
        self.image_scale, self.pixel_format = image_scale, pixel_format
        self.device = torch.device(device) if device is not None else _device_of(self.networks[0])
        self._folded: list[nn.Module] = []
        self._folded_weights: list[tuple[int, float, float]] = []

    @contextmanager
    def ready_networks(self) -> Iterator[Sequence[nn.Module]]:
        """Give the networks in eval mode, in the form that predicts fastest."""
        weights = [weight for network in self.networks for weight in _weights(network)]
        if not self._folded or weights != self._folded_weights:
            self._folded, self._folded_weights = [fold(network) for network in self.networks], weights
        with evaluation_mode(self._folded):
            yield self._folded

    @torch.inference_mode()
    def scores(self, image: Tensor) -> Tensor:
        """Return float32 ``(C, H, W)`` with the same largest class as `probabilities`, but cheaper to compute."""
        if len(self.networks) > 1 or self.window is not None:
            return self.probabilities(image)
        with self.ready_networks() as networks:
            return resized(networks[0](self.network_input(image)).float(), image.shape[-2:])[0]

    @torch.inference_mode()
    def probabilities(self, image: Tensor) -> Tensor:
        """Return float32 ``(C, H, W)`` on the device that sums to 1 over C, for an image uint8 ``(channels, H, W)``."""
        images = self.network_input(image)
        with self.ready_networks() as networks:
            total = self._network_probabilities(networks[0], images, image.shape[-2:])
            for network in networks[1:]:
                total += self._network_probabilities(network, images, image.shape[-2:])
        return total if len(self.networks) == 1 else total.div_(len(self.networks))

    def __call__(self, image: Tensor) -> Prediction:
        """Return the most likely class of each pixel and its probability, for an image uint8 ``(channels, H, W)``."""
        confidence, mask = self.probabilities(image).max(dim=0)
        return Prediction(mask.to(torch.uint8), confidence)

    def network_input(self, image: Tensor) -> Tensor:
        """Return the resized image as float32 ``(1, channels, h, w)`` in [0, 1]."""
        if image.ndim != 3 or image.shape[0] != self.channels or image.dtype != torch.uint8:
            found = f"{image.dtype} {tuple(image.shape)}"
            raise ValueError(f"expected an image uint8 ({self.channels}, H, W), got {found}")
        images = image.to(self.device).float().div_(255)[None]
        if self.image_scale == 1:
            return images
        size = self._seen_size(*image.shape[-2:])
        return interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)

    def peak_pixels(self, height: int, width: int) -> int:
        """Return the number of pixels to process for an image of this size: the largest of image and network input.

        Networks resize and pad whole images, so a 1-pixel-high image can become much larger.
        """
        seen = self._seen_size(height, width)
        pads = [getattr(network, "padded_size", None) for network in self.networks] if self.window is None else []
        sizes = [pad((1, self.channels, *seen)) for pad in pads if pad is not None]
        return max(tall * wide for tall, wide in [(height, width), seen, *sizes])

    def _seen_size(self, height: int, width: int) -> tuple[int, int]:
        if self.image_scale == 1:
            return height, width
        return max(1, round(height * self.image_scale)), max(1, round(width * self.image_scale))

    def _network_probabilities(self, network: nn.Module, images: Tensor, size: torch.Size) -> Tensor:
        """Return probabilities ``(C, *size)`` of one network."""
        if self.window is None:
            return resized(network(images).float(), size)[0].softmax(dim=0)
        probabilities = slide(network, images, self.window)
        if probabilities.shape[-2:] == size:
            return probabilities[0]
        # Resize logarithms instead of probabilities, so that a window that covers the image gives the same result.
        logarithms = probabilities.clamp_(min=torch.finfo(probabilities.dtype).tiny).log_()
        return resized(logarithms, size)[0].softmax(dim=0)


def slide(network: nn.Module, images: Tensor, window: int) -> Tensor:
    """Return probabilities float32 ``(1, C, H, W)`` of one image, averaged over overlapping windows.

    Args:
        network: Images ``(N, channels, h, w)`` to logits ``(N, C, h, w)``.
        images: float ``(1, channels, H, W)``.
        window: Side of the square window in pixels; shorter sides of the image are used completely.
    """
    height, width = images.shape[-2:]
    tall, wide = min(window, height), min(window, width)
    corners = [(top, left) for top in window_starts(height, window) for left in window_starts(width, window)]
    total: Tensor | None = None
    visits = images.new_zeros(1, 1, height, width)
    for first in range(0, len(corners), WINDOWS_AT_ONCE):
        some = corners[first : first + WINDOWS_AT_ONCE]
        crops = torch.cat([images[..., top : top + tall, left : left + wide] for top, left in some])
        probabilities = network(crops).float().softmax(dim=1)
        if total is None:
            total = images.new_zeros(1, probabilities.shape[1], height, width)
        for (top, left), probability in zip(some, probabilities, strict=True):
            total[0, :, top : top + tall, left : left + wide] += probability
            visits[..., top : top + tall, left : left + wide] += 1
    assert total is not None
    return total.div_(visits)


def window_starts(length: int, window: int) -> list[int]:
    """Return the starts of windows along one side, in pixels; all pixels are covered and the last window is inside.

    Example:
        >>> window_starts(10, 6), window_starts(4, 6)
        ([0, 4], [0])
    """
    last = max(length - window, 0)
    stride = max(1, 2 * window // 3)
    return [*range(0, last, stride), last]


@contextmanager
def evaluation_mode(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Put the networks into eval mode; restore every module afterwards (a frozen BatchNorm stays frozen)."""
    training = [module for network in networks for module in network.modules() if module.training]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def resized(scores: Tensor, size: torch.Size) -> Tensor:
    """Return scores resized to ``(N, C, *size)`` by bilinear interpolation, unchanged if they have that size."""
    if scores.shape[-2:] == size:
        return scores
    return interpolate(scores, size=size, mode="bilinear", align_corners=False)


def _weights(network: nn.Module) -> Iterator[tuple[int, float, float]]:
    """Yield the address of each weight and, on a CPU, its sum and its norm, which show changes that autograd misses."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.device.type == "cpu" and tensor.is_floating_point():
            yield tensor.data_ptr(), tensor.sum().item(), torch.linalg.vector_norm(tensor).item()
        else:
            yield tensor.data_ptr(), 0.0, 0.0


def _device_of(network: nn.Module) -> torch.device:
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def find_accelerator(name: str) -> str:
    """Return ``cuda``, ``mps`` or ``cpu``; for ``auto``, the best that this machine has.

    Raises:
        UserError: This machine lacks the accelerator.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, available in has.items() if available)
    if not has[name]:
        raise UserError(f"PyTorch finds no {name} device", option="accelerator", fix="pass auto or cpu")
    return name
