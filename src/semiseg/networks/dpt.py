"""DPT on a plain vision transformer: the network of UniMatch V2's release.

Ranftl, Bochkovskiy, Koltun, "Vision Transformers for Dense Prediction", ICCV 2021 (https://arxiv.org/abs/2103.13413).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from semiseg.errors import UserError
from semiseg.networks.encoders import smp_name

LEVELS = 4  # intermediate token maps, evenly spaced in depth
WIDTHS = ((384, 64), (768, 128))  # release: decoder width of DINOv2 small and base
LARGE_WIDTH = 256


class ViTEncoder(nn.Module):
    """A plain vision transformer of timm. Its features are four token maps with the stride of a patch.

    Positional embeddings are interpolated to the size of the image, whose sides are multiples of the patch size.

    Args:
        name: A model of timm.
        channels: Channels of the images.
        version: 1: as in semiseg 0.1. 2: the last LayerNorm is applied to each map, and positional embeddings are
            interpolated as in DINOv2.

    Raises:
        UserError: timm has no such model, or it is not a plain vision transformer.
    """

    def __init__(self, name: str, channels: int = 3, version: int = 2) -> None:
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
        self.normalized = version > 1
        # Removes the unused classifier too.
        self.model.prune_intermediate_layers(self.indices, prune_norm=not self.normalized)
        if self.normalized and _has_positions_of_dinov2(self.model):
            self.model.__class__ = DINOv2Positions

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the images and four maps ``(N, C, H/patch, W/patch)``, shallow maps first."""
        maps: list[Tensor] = self.model.forward_intermediates(
            images, indices=self.indices, norm=self.normalized, intermediates_only=True
        )
        return [images, *maps]


class DINOv2Positions(VisionTransformer):
    """A vision transformer that interpolates positional embeddings as DINOv2's code does.

    The interpolation is bicubic without antialiasing. Its scale for a side of ``n`` patches is ``(n + 0.1) / 37``; 37
    is the side in pretraining.
    """

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add the class token and positional embeddings to patches ``(N, h, w, C)``; return ``(N, 1 + h w, C)``."""
        samples, height, width, channels = x.shape
        tokens = torch.cat([self.cls_token.expand(samples, -1, -1), x.view(samples, -1, channels)], dim=1)
        return self.pos_drop(tokens + self._positions(height, width))

    def _positions(self, height: int, width: int) -> Tensor:
        rows, columns = self.patch_embed.grid_size
        if torch.compiler.is_exporting():
            return self._positions_of_any_size(height, width)
        if (height, width) == (rows, columns):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].reshape(1, rows, columns, -1).permute(0, 3, 1, 2)
        scale = ((height + 0.1) / rows, (width + 0.1) / columns)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic", align_corners=False)
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)

    def _positions_of_any_size(self, height: int, width: int) -> Tensor:
        """Return the same for sizes that torch.export leaves open, without a branch for the size of pretraining."""
        rows, columns = self.patch_embed.grid_size
        sizes = torch.ones(height).sum(), torch.ones(width).sum()
        shift = 0.1 * ((sizes[0] != rows) | (sizes[1] != columns))
        down, across = (
            bicubic_weights(height, rows, sizes[0] + shift),
            bicubic_weights(width, columns, sizes[1] + shift),
        )
        grid = self.pos_embed[0, 1:].unflatten(0, (rows, columns))
        grid = torch.einsum("ir,jc,rcd->ijd", down.to(grid), across.to(grid), grid)
        return torch.cat([self.pos_embed[:, :1], grid.flatten(0, 1)[None]], dim=1)


def bicubic_weights(size: int, source: int, scale: Tensor) -> Tensor:
    """Return the matrix ``(size, source)`` of a bicubic interpolation by the factor ``scale / source``.

    Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -0.75 as in PyTorch.
    """
    position = (torch.arange(size) + 0.5) * (source / scale) - 0.5
    first = position.floor()
    weights = torch.zeros(size, source)
    for tap in (-1, 0, 1, 2):
        x = (position - first - tap).abs()
        near = (1.25 * x - 2.25) * x * x + 1
        far = ((-0.75 * x + 3.75) * x - 6) * x + 3
        index = (first + tap).clamp(0, source - 1)
        hit = index[:, None] == torch.arange(source)
        weights = weights + torch.where(x <= 1, near, far)[:, None] * hit
    return weights


def _has_positions_of_dinov2(model: nn.Module) -> bool:
    return (
        type(model) is VisionTransformer
        and model.pos_embed is not None
        and model.cls_token is not None
        and model.reg_token is None
        and not model.no_embed_class
    )


class DPTDecoder(nn.Module):
    """Resize the four maps to strides of 1/4, 1/2, 1 and 2 patches and fuse them from coarse to fine.

    The class token is ignored. Each fused map is resized to the size of the next map. Output
    ``(N, width, 8 H/patch, 8 W/patch)``.

    Args:
        channels: Channels of each token map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = next((width for limit, width in WIDTHS if channels <= limit), LARGE_WIDTH)
        inner = [channels // 8, channels // 4, channels // 2, channels]
        self.projects = nn.ModuleList(nn.Conv2d(channels, outputs, 1) for outputs in inner)
        self.resize = nn.ModuleList(
            [
                nn.ConvTranspose2d(inner[0], inner[0], 4, stride=4),
                nn.ConvTranspose2d(inner[1], inner[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(inner[3], inner[3], 3, stride=2, padding=1),
            ]
        )
        self.reduce = nn.ModuleList(nn.Conv2d(inputs, self.width, 3, padding=1, bias=False) for inputs in inner)
        self.fuse = nn.ModuleList(FeatureFusion(self.width, deepest=level == LEVELS - 1) for level in range(LEVELS))
        self.project = nn.Sequential(nn.Conv2d(self.width, self.width, 3, padding=1), nn.ReLU(inplace=True))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the fused map for the features: images and four maps."""
        layers = zip(features[1:], self.projects, self.resize, self.reduce, strict=True)
        maps = [reduce(resize(project(tokens))) for tokens, project, resize, reduce in layers]
        fused: Tensor | None = None
        for level in reversed(range(LEVELS)):
            size = maps[level - 1].shape[-2:] if level else [2 * side for side in maps[0].shape[-2:]]
            fused = self.fuse[level](maps[level], fused, size)
        projected: Tensor = self.project(fused)
        return projected


class FeatureFusion(nn.Module):
    """Add a map to the fused deeper ones, refine the sum and resize it. The deepest map is only refined."""

    def __init__(self, width: int, deepest: bool) -> None:
        super().__init__()
        self.residual = None if deepest else ResidualUnit(width)
        self.refine = ResidualUnit(width)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, level: Tensor, deeper: Tensor | None, size: Sequence[int]) -> Tensor:
        """Return the fused map ``(N, width, *size)``."""
        if self.residual is not None and deeper is not None:
            level = deeper + self.residual(level)
        resized = F.interpolate(self.refine(level), list(size), mode="bilinear", align_corners=True)
        fused: Tensor = self.out(resized)
        return fused


class ResidualUnit(nn.Module):
    """``x + conv(relu(conv(relu(x))))``, the residual convolution unit of DPT without BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the size of ``x``."""
        branch: Tensor = self.conv2(self.conv1(x.relu()).relu())
        return x + branch
