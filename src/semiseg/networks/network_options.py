"""The options of a network besides architecture, encoder and number of classes."""

from __future__ import annotations

from dataclasses import dataclass, fields

from semiseg.errors import UserError

CURRENT_VERSION = 2
"""1: the networks of semiseg 0.1; 2: ``dpt`` is the network of UniMatch V2's release."""


@dataclass(frozen=True)
class NetworkOptions:
    """Changes to an architecture. None, False and 0 keep its own value.

    Attributes:
        output_stride: Stride of the deepest features, 8 or 16 (DeepLabv3+).
        multi_grid: Factors of the dilations of the blocks in a ResNet's last stage (DeepLabv3+).
        low_level_channels: Width of the reduced stride-4 features (DeepLabv3+).
        aux_head: Add a second classifier on the last but one features, for training (DeepLabv3+).
        align_corners: Interpolate with ``align_corners=True`` and do not pad images (DeepLabv3+).
        head_dropout: Probability of dropping a channel before the classifier in training.
        encoder_drop_path: Rate of the encoder's own drop path in training, reached at its last block (MiT).
        version: Version of the architecture, up to ``CURRENT_VERSION``.
    """

    output_stride: int | None = None
    multi_grid: tuple[int, ...] | None = None
    low_level_channels: int | None = None
    aux_head: bool = False
    align_corners: bool = False
    head_dropout: float | None = None
    encoder_drop_path: float = 0.0
    version: int = CURRENT_VERSION


GENERAL = ("head_dropout", "encoder_drop_path", "version")
DEFAULTS = NetworkOptions()


def require_general(options: NetworkOptions, architecture: str) -> None:
    """Raise UserError if an option is set that only DeepLabv3+ has."""
    for name in (field.name for field in fields(options) if field.name not in GENERAL):
        if getattr(options, name) != getattr(DEFAULTS, name):
            problem = f"does not apply to {architecture}"
            raise UserError(problem, option=name, fix="leave it out or pass --architecture deeplabv3plus")
