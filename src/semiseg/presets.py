"""Named sets of option values for cases that published settings do not fit, chosen on val (docs/results.md)."""

from typing import Any

SMALL_COMMON: dict[str, Any] = {"batchnorm": "frozen-encoder", "class_balance": 0.5}
# Probabilities as pseudo-labels keep thin objects that are predicted with probability 0.4.
SMALL_UNLABELED: dict[str, Any] = SMALL_COMMON | {"burn_in": 0.3, "ramp_up": 0.15, "label_temperature": 1.0}
# A threshold would drop rare classes, which the teacher is least sure of.
SMALL_TRUSTING: dict[str, Any] = SMALL_UNLABELED | {"threshold_mode": "none"}
# Milder colors for crops of 128 instead of 321 pixels.
SMALL_TEACHER: dict[str, Any] = SMALL_TRUSTING | {"color_strength": 0.25}
# The published decays average over about a thousand steps, the whole run.
SMALL_EMA: dict[str, Any] = {"ema_decay": 0.99}
# For methods whose labels are soft and have no threshold.
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
        # The other methods use the values chosen for those above.
        "augseg": SMALL_TRUSTING | SMALL_EMA,
        "fixmatch": SMALL_TEACHER,
        "unimatch": SMALL_TEACHER,
        "unimatch-v2": SMALL_TEACHER | SMALL_EMA,
        "u2pl": SMALL_COMMON | {"burn_in": 0.3, "ramp_up": 0.15},
        "gentle-teaching-assistant": SMALL_UNLABELED | SMALL_EMA | {"representation_decay": 0.99},
    },
}
