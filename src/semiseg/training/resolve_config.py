"""Merge defaults, preset, file and options into the configuration of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semiseg.config import TrainConfig, check_mapping, from_mapping, read_yaml
from semiseg.errors import UserError, lookup
from semiseg.methods import ALIASES, VARIANTS
from semiseg.presets import PRESETS
from semiseg.training.find_method import find_method, is_own, short_name, trust


def resolve(values: dict[str, Any], preset: str | None = None, file: str | None = None) -> tuple[TrainConfig, Any]:
    """Merge defaults, preset, variant, file and ``values``, later ones first in rank, into one configuration.

    Raises:
        UserError: an unknown method, preset or key, or a value of the wrong type or range.
    """
    from_file = {key.replace("-", "_"): value for key, value in read_yaml(Path(file)).items()} if file else {}
    preset_in_file = from_file.pop("preset", None)
    preset = preset_in_file if preset is None else preset
    if preset is not None and not isinstance(preset, str):
        raise UserError(f"{file}: preset is {preset!r}: expected one of {', '.join(PRESETS)}")
    name = str(values.get("method") or from_file.get("method") or TrainConfig.method)
    name, of_variant = VARIANTS.get(name, (ALIASES.get(name, name), {}))
    method = find_method(name)
    if is_own(name):
        trust(name)
        name = f"{Path(name.rpartition(':')[0]).resolve()}:{short_name(name)}"  # the run may be opened from elsewhere
    presets = lookup("preset", preset, PRESETS) if preset else {}
    from_preset = presets.get(name, presets.get("supervised", {}))  # a method of one's own: what all share
    kinds = (TrainConfig, method.Options)
    if file:
        from_file = check_mapping(kinds, from_file, file)
    below = from_preset | of_variant | from_file
    for one, other in (("steps", "epochs"), ("epochs", "steps")):
        if one in values:
            below.pop(other, None)
    config, options = from_mapping(kinds, below | values | {"method": name}, "options")
    return config, options
