"""The module of every segmentation network: normalize, fit the size, encode, decode, resize to the image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from semiseg.ops.bilinear import bilinear

MIN_SIDE = 32  # smallest side of padded images, since some transformers pool keys over this many pixels
Fit = Literal["pad", "keep", "resize"]
"""How an image is fitted to the network: pad to multiples of the stride, keep its size, or resize it to multiples."""


class SegmentationNetwork(nn.Module):
    """A segmentation network that maps images of any size to logits of the same size.

    Args:
        encoder: Maps normalized images ``(N, channels, H, W)`` to features at strides 1, 2, 4, 8, ... (finest first).
        decoder: Maps these features to one map ``(N, D, H/s, W/s)``.
        head: Maps it to logits ``(N, classes, H/s, W/s)``.
        stride: Images are fitted to sides that are multiples of it.
        mean: Mean of the encoder's pretraining, per channel in [0, 1]; its length is the number of channels.
        std: Standard deviation of the encoder's pretraining, per channel.
        architecture: Name of the architecture, as for ``build``.
        encoder_name: Name of the encoder, as for ``build``.
        classes: Number of classes.
        decoder_stride: Stride ``s`` of the decoder's map, in pixels of the fitted image.
        fit: ``pad``: pad images on the right and the bottom. ``keep``: only those below ``MIN_SIDE``. ``resize``:
            resize them to the nearest multiples of ``stride``, and logits back.
        align_corners: How logits are interpolated. The decoder has its own.
        aux_head: Maps the last but one features to logits, for a second loss in training.
        head_dropout: Probability of dropping a channel before the head.
        one_channel_mask: Whether all features have the same channels, so that dropout of channels shares a mask.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        head: nn.Module,
        *,
        stride: int,
        mean: Sequence[float],
        std: Sequence[float],
        architecture: str,
        encoder_name: str,
        classes: int,
        decoder_stride: float = 4,
        fit: Fit = "pad",
        align_corners: bool = False,
        aux_head: nn.Module | None = None,
        head_dropout: float = 0.0,
        one_channel_mask: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.head = head
        self.aux_head = aux_head
        self.head_dropout = nn.Dropout2d(head_dropout) if head_dropout else nn.Identity()
        self.fit: Fit = fit
        self.align_corners = align_corners
        self.one_channel_mask = one_channel_mask
        self.stride = stride
        self.architecture = architecture
        self.encoder_name = encoder_name
        self.classes = classes
        self.decoder_stride = decoder_stride
        self.encoder_batchnorm_frozen = False
        self.encoder_frozen = False
        self.channels = len(mean)
        # Not saved: determined by the encoder name.
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(N, classes, H, W)`` for float images ``(N, channels, H, W)`` in [0, 1]."""
        return self.resize(self.decode(self.encode(images)), images.shape[-2:])

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the encoder's features, finest first, for float images ``(N, channels, H, W)`` in [0, 1].

        The first map is the normalized image, padded if images are. The stride-2 map of transformers may have 0
        channels.
        """
        height, width = self.padded_size(images.shape)
        images = (images - self.mean) / self.std
        if self.fit == "resize":
            return [images, *list(self.encoder(self._interpolate(images, (height, width))))[1:]]
        padding = (0, width - images.shape[-1], 0, height - images.shape[-2])
        if any(padding):
            images = F.pad(images, padding, mode="replicate")  # keeps the image's statistics and accepts 1 x 1 images
        return list(self.encoder(images))

    def decode(self, features: list[Tensor]) -> Tensor:
        """Return logits ``(N, classes, h, w)`` at the decoder's resolution for the features of ``encode``."""
        return self.head(self.head_dropout(self.decoder(features)))

    def resize(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Resize logits from ``decode`` to the images' ``size`` ``(H, W)``, without padding."""
        if self.fit == "pad":
            fitted: Sequence[int] = [round(side * self.decoder_stride) for side in logits.shape[-2:]]
        else:
            fitted = self.padded_size((len(logits), self.channels, *size))
        logits = self._interpolate(logits, fitted)
        if self.fit == "resize":
            return self._interpolate(logits, size)
        return logits[..., : size[0], : size[1]]

    def auxiliary_logits(self, images: Tensor) -> Tensor:
        """Return logits ``(N, classes, H, W)`` of ``aux_head`` for float images ``(N, channels, H, W)`` in [0, 1]."""
        assert self.aux_head is not None
        features = self.encode(images)
        logits = self._interpolate(self.aux_head(features[-2]), features[0].shape[-2:])
        return logits[..., : images.shape[-2], : images.shape[-1]]

    def _interpolate(self, maps: Tensor, size: Sequence[int]) -> Tensor:
        if tuple(maps.shape[-2:]) == tuple(size):
            return maps
        return bilinear(maps, size, self.align_corners)

    def freeze_encoder_batchnorm(self) -> None:
        """Stop updating the encoder's BatchNorm statistics, also in train mode. Scale and shift still learn.

        This is better for small batches, whose statistics are noisier than ImageNet's (docs/results.md).
        """
        self.encoder_batchnorm_frozen = True
        self.train(self.training)

    def freeze_encoder(self) -> None:
        """Stop training the encoder and keep it in eval mode, so no activations are stored for its backward pass."""
        self.encoder.requires_grad_(False)
        self.encoder_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> SegmentationNetwork:
        """Set the mode. A frozen encoder, or its frozen BatchNorm, stays in eval mode."""
        super().train(mode)
        if self.encoder_frozen:
            self.encoder.eval()
        elif self.encoder_batchnorm_frozen:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Return the encoder's parameters."""
        return list(self.encoder.parameters())

    def decoder_parameters(self) -> list[nn.Parameter]:
        """Return all parameters outside the encoder."""
        auxiliary = self.aux_head.parameters() if self.aux_head is not None else ()
        return [*self.decoder.parameters(), *self.head.parameters(), *auxiliary]

    def padded_size(self, shape: Sequence[int]) -> tuple[int, int]:
        """Return the height and width to which images of ``shape`` ``(N, 3, H, W)`` are padded or resized."""
        if self.fit == "resize":
            tall, wide = (max(1, (2 * side + self.stride) // (2 * self.stride)) for side in shape[-2:])
            return tall * self.stride, wide * self.stride
        if self.fit == "keep":
            return max(shape[-2], MIN_SIDE), max(shape[-1], MIN_SIDE)
        # A single image of exactly one stride would give BatchNorm one value per channel.
        minimum = 2 * self.stride if self.training and shape[0] == 1 else MIN_SIDE
        height, width = (-(-max(side, minimum) // self.stride) * self.stride for side in shape[-2:])
        return height, width


class LenientBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that uses its running statistics for batches with one value per channel.

    Such batches occur in the image-pooling branch of ASPP for a single image. Otherwise the layer equals
    ``nn.BatchNorm2d``, with the same state dict. Input and output ``(N, C, H, W)``.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize ``input``."""
        if self.training and input.numel() == self.num_features:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(input, mean, variance, self.weight, self.bias, training=False, eps=self.eps)
        return super().forward(input)


def make_batch_norm_lenient(module: nn.Module) -> None:
    """Replace each ``nn.BatchNorm2d`` in ``module`` by a ``LenientBatchNorm2d``, without copying its weights."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, LenientBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum))
