"""The numbers of the plan: one row per choice, with its reason and where it was measured. Edit them here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from semiseg.presets import PRESETS


class Setting(NamedTuple):
    """Values of options that belong together.

    Attributes:
        values: Options of every run or of methods. A method ignores those that it lacks.
        reason: Why, as the end of a line of the plan.
        measured: The page, file or release that the values come from.
    """

    values: Mapping[str, Any]
    reason: str
    measured: str


class Tier(NamedTuple):
    """Settings for a kind of device.

    Attributes:
        name: Its name in the plan.
        kinds: Accelerators: cpu, cuda, mps.
        gpu_gb: Smallest memory of the GPU in gigabytes.
        hub: Whether the encoder's weights come from a model hub.
        crop_size: Side of the crop in pixels, for images that are large enough.
        crop_multiple: Crops of smaller images are rounded down to a multiple of this.
        batch_size: Labeled images per step and device.
        max_steps: A run is not longer, however much time there is.
        settings: Everything else.
        reason: Why this crop and batch size.
        measured: Where they come from.
    """

    name: str
    kinds: tuple[str, ...]
    gpu_gb: float
    hub: bool
    crop_size: int
    crop_multiple: int
    batch_size: int
    max_steps: int
    settings: tuple[Setting, ...]
    reason: str
    measured: str


LITE0 = Setting(
    {"architecture": "deeplabv3plus-separable", "encoder": "tf_efficientnet_lite0"},
    "fast, and its ImageNet weights are installed with semiseg",
    "docs/results.md",
)
SMALL_DATA = Setting(
    {"batchnorm": "frozen-encoder", "class_balance": 0.5},
    "few labels: pretrained statistics stay, rare classes count more",
    "docs/results.md, What was tried",
)
MILD_SCALES = Setting({"scale_min": 0.7, "scale_max": 1.5}, "milder than 0.5 to 2, for small crops", "configs/camvid")
ADAMW = Setting({"lr": 1e-3, "encoder_lr_factor": 0.3}, "AdamW, 0.3 of it for the encoder", "configs/camvid")
SAFEGUARD = Setting({"safeguard": True}, "steps back if the unlabeled images make the model worse", "tests only")
"""For methods that use unlabeled images."""
DINOV2 = Setting(
    {"architecture": "dpt", "encoder": "vit_small_patch14_dinov2"},
    "DINOv2-S from the model hub: the strongest features that fit",
    "UniMatch V2",
)
DINOV2_RATES = Setting(
    {"lr": 2e-4, "encoder_lr_factor": 0.025, "warmup_steps": 0, "clip_norm": 0.0}, "as UniMatch V2", "UniMatch V2"
)

CPU_SETTINGS = (LITE0, SMALL_DATA, MILD_SCALES, ADAMW)
GPU_SETTINGS = (LITE0, SMALL_DATA, ADAMW)
DINOV2_SETTINGS = (DINOV2, DINOV2_RATES)

TIERS = (  # the first that fits the device
    Tier("GPU", ("cuda",), 40, True, 532, 28, 16, 40_000, DINOV2_SETTINGS, "as published", "UniMatch V2"),
    Tier("GPU", ("cuda",), 16, True, 532, 28, 4, 40_000, DINOV2_SETTINGS, "4 images fit a GPU of 24 GB", "UniMatch V2"),
    Tier("GPU", ("cuda",), 5, False, 321, 32, 8, 40_000, GPU_SETTINGS, "as in most papers", "not measured here"),
    Tier(
        "small GPU",
        ("cuda", "mps"),
        0,
        False,
        256,
        32,
        4,
        40_000,
        GPU_SETTINGS,
        "fits little memory",
        "not measured here",
    ),
    Tier("CPU", ("cpu",), 0, False, 128, 32, 6, 10_000, CPU_SETTINGS, "small crops make steps cheap", "configs/camvid"),
)

LONG_STEPS = 2000
"""From this length on, a run uses the published hard labels."""
LONG = Setting(
    {"burn_in": 0.08, "ramp_up": 0.05},
    "a long run: the unlabeled images join early",
    "3,000 steps on clothes, one seed",
)
LONG_LABELS = Setting(
    {"label_temperature": 0.0, "threshold_mode": "pixel", "threshold": 0.95, "color_strength": 0.5, "ema_decay": 0.99},
    "a long run: the published hard labels beat probabilities",
    "3,000 steps on clothes, one seed",
)
SHORT_REASON = "a short run: probabilities as labels keep thin objects"


def length_settings(method: str, steps: int) -> tuple[Setting, ...]:
    """Return the settings of a method that depend on the length of the run."""
    if steps >= LONG_STEPS:
        return (LONG, LONG_LABELS)
    preset = PRESETS["small"].get(method, {})
    short = {name: value for name, value in preset.items() if name not in SMALL_DATA.values}
    return (Setting({"ema_decay": 0.99} | short, SHORT_REASON, "docs/results.md, configs/camvid"),)


BUDGET_S = {"cpu": 20 * 60.0, "cuda": 60 * 60.0, "mps": 60 * 60.0}
"""The time budget if --time is not given, by accelerator."""
VALIDATIONS = 10
VALIDATION_SHARE = 0.15
"""Largest share of the time for validation; more val images are left out evenly (--val-limit)."""
MIN_VAL_LIMIT = 20
USEFUL_STEPS = 600
"""A plan with fewer steps warns. docs/results.md: at 400 steps only generated images gain."""
SPARE_SHARE = 0.05
"""Share of the time for start-up, checkpoints and the report."""
LABELED_PER_BATCH = 4
"""With few labeled images, a batch is not smaller than this, so that images repeat in it."""
SMALLEST_CLASS = 24
"""Pixels of the scaled image that the rarest class should still cover where it occurs."""
