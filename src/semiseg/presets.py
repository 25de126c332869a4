"""Named sets of option values for situations the published settings do not fit; chosen on val (docs/results.md)."""

from typing import Any

SMALL_COMMON: dict[str, Any] = {"batchnorm": "frozen-encoder", "class_balance": 0.5}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    # Small batches, small crops, a thousand steps, perhaps no GPU.
    "small": {
        "supervised": SMALL_COMMON,
        "mean-teacher": SMALL_COMMON | {"burn_in": 0.25, "ramp_up": 0.1},
        "dual-student": SMALL_COMMON | {"burn_in": 0.25, "ramp_up": 0.1},
        "dual-teacher": SMALL_COMMON | {"burn_in": 0.25, "ramp_up": 0.1},
    },
}
