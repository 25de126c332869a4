"""DPT on a plain vision transformer: Ranftl, Bochkovskiy, Koltun, "Vision Transformers for Dense Prediction", ICCV
2021 (https://arxiv.org/abs/2103.13413). With DINOv2 it is the network of UniMatch V2."""

from __future__ import annotations

from collections.abc import Sequence

from segmentation_models_pytorch.decoders.dpt import decoder as smp_dpt
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import Tensor, nn

from semiseg.errors import UserError
from semiseg.networks.encoders import smp_name

LEVELS = 4  # intermediate token maps, evenly spaced in depth


class ViTEncoder(nn.Module):
    """A plain vision transformer of timm. Its features are four token maps with the stride of a patch.

    Positional embeddings are interpolated to the size of the image, whose sides are multiples of the patch size.

    Raises:
        UserError: timm has no such model, or it is not a plain vision transformer.
    """

    def __init__(self, name: str, channels: int = 3) -> None:
        super().__init__()
        full_name = smp_name(name)
        try:
            if not full_name.startswith("tu-"):
                raise ValueError("timm does not have it")
            vit = TimmViTEncoder(
                full_name.removeprefix("tu-"),
                in_channels=channels,
                pretrained=False,
                depth=LEVELS,
                dynamic_img_size=True,
            )
            if len(set(vit.output_strides)) > 1:
                raise ValueError("its features are a pyramid")
        except Exception as error:  # timm's constructors raise many types of exceptions
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"encoder {name!r} cannot be used: dpt needs a plain vision transformer of timm ({reason})",
                fix="choose another encoder, e.g. vit_small_patch14_dinov2",
            ) from error
        self.model = vit.model
        self.patch = int(vit.output_strides[0])
        self.channels: list[int] = list(vit.out_channels)
        self.indices: list[int] = list(vit._output_indices)
        self.model.prune_intermediate_layers(self.indices, prune_norm=True)  # removes the unused classifier too

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the images and four maps ``(N, C, H/patch, W/patch)``, shallow maps first."""
        maps: list[Tensor] = self.model.forward_intermediates(images, indices=self.indices, intermediates_only=True)
        return [images, *maps]


class DPTDecoder(nn.Module):
    """Resize the four maps to strides of 1/4, 1/2, 1 and 2 patches and fuse them from coarse to fine.

    The class token is ignored, as in UniMatch V2. Output ``(N, channels, 8 H/patch, 8 W/patch)``.
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
