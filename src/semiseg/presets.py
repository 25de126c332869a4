"""Named sets of option values for situations the published settings do not fit; chosen on val (docs/results.md)."""

from typing import Any

SMALL_COMMON: dict[str, Any] = {"batchnorm": "frozen-encoder", "class_balance": 0.5}
# Probabilities as pseudo-labels: of a pole seen with a probability of 0.4, a decision leaves nothing.
SMALL_UNLABELED: dict[str, Any] = SMALL_COMMON | {"burn_in": 0.3, "ramp_up": 0.15, "label_temperature": 1.0}
# A threshold starves what the teacher is least sure of, the rare classes.
SMALL_TRUSTING: dict[str, Any] = SMALL_UNLABELED | {"threshold_mode": "none"}
# Colors for crops of 128 pixels, not 321.
SMALL_TEACHER: dict[str, Any] = SMALL_TRUSTING | {"color_strength": 0.25}
# An average over a thousand steps would be one over the whole run.
SMALL_EMA: dict[str, Any] = {"ema_decay": 0.99}
# Labels that are soft by themselves, over all pixels; milder colors, as below.
SMALL_SOFT: dict[str, Any] = SMALL_COMMON | {"burn_in": 0.3, "ramp_up": 0.15, "color_strength": 0.25}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # Small batches, small crops, a thousand steps, perhaps no GPU.
    "small": {
        "supervised": SMALL_COMMON,
        "mean-teacher": SMALL_TEACHER,
        "dual-student": SMALL_UNLABELED,
        "dual-teacher": SMALL_TEACHER,
        "pseudoseg": SMALL_SOFT,
        "pc2seg": SMALL_SOFT,
        # What follows takes over what was chosen for the methods above.
        "augseg": SMALL_TRUSTING | SMALL_EMA,
        "fixmatch": SMALL_TEACHER,
        "unimatch": SMALL_TEACHER,
        "unimatch-v2": SMALL_TEACHER | SMALL_EMA,
        "gentle-teaching-assistant": SMALL_UNLABELED | SMALL_EMA | {"representation_decay": 0.99},
    },
}
