"""The decoder of ``dpt`` in semiseg 0.1, for runs of that version: 256 wide, with BatchNorm."""

from __future__ import annotations

from collections.abc import Sequence

from segmentation_models_pytorch.decoders.dpt import decoder as smp_dpt
from torch import Tensor, nn

from semiseg.networks.dpt import LEVELS


class DPTDecoderVersion1(nn.Module):
    """Resize the four maps to strides of 1/4, 1/2, 1 and 2 patches and fuse them from coarse to fine.

    The class token is ignored. Output ``(N, channels, 8 H/patch, 8 W/patch)``.
    """

    def __init__(self, encoder_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        widest = max(encoder_channels)
        self.fuse = smp_dpt.DPTDecoder(
            encoder_out_channels=list(encoder_channels),
            encoder_output_strides=[16] * LEVELS,  # relative strides; the patch size does not matter
            encoder_has_prefix_tokens=False,
            readout="ignore",
            intermediate_channels=[widest // 8, widest // 4, widest // 2, widest],
            fusion_channels=channels,
        )
        self.project = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the fused map for the features: images and four maps."""
        no_tokens: list[Tensor | None] = [None] * LEVELS
        fused: Tensor = self.project(self.fuse(list(features[1:]), no_tokens))
        return fused
