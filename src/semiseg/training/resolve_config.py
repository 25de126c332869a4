"""Merge defaults, preset, file and options into the configuration of a run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from semiseg.config import EXCLUSIVE, TrainConfig, check_mapping, from_mapping, read_yaml
from semiseg.errors import UserError, lookup
from semiseg.methods import ALIASES, VARIANTS
from semiseg.presets import PRESETS
from semiseg.training.find_method import find_method, is_method_file, short_name, trust
from semiseg.training.run_data import RECORDED


def resolve(values: dict[str, Any], preset: str | None = None, file: str | None = None) -> tuple[TrainConfig, Any]:
    """Merge defaults, preset, method variant, file and ``values`` into one configuration; later ones take precedence.

    Args:
        values: Options given on the command line or in Python.
        preset: Name of a preset. Defaults to the preset of the file.
        file: Path of a YAML file of options.

    Returns:
        The run's configuration, and the method's options.

    Raises:
        UserError: An unknown method, preset or key, or a value of the wrong type or range.
    """
    return _merge(values, preset, file)[1]


def given_options(values: dict[str, Any], preset: str | None = None, file: str | None = None) -> dict[str, Any]:
    """Return the options of `resolve` that are given, without defaults.

    ``method`` is among them only if ``values`` or the file names it.

    Raises:
        UserError: As `resolve`.
    """
    given, (config, _) = _merge(values, preset, file)
    if given.pop("tensorboard", False):
        given["tracker"] = config.tracker  # TrainConfig replaces the deprecated option
    return given


def _merge(
    values: dict[str, Any], preset: str | None, file: str | None
) -> tuple[dict[str, Any], tuple[TrainConfig, Any]]:
    """Return the given options, and the configuration and the method's options that follow from them."""
    from_file = {key.replace("-", "_"): value for key, value in read_yaml(Path(file)).items()} if file else {}
    from_file = {key: value for key, value in from_file.items() if key not in RECORDED}  # file: config.yaml of a run
    preset_in_file = from_file.pop("preset", None)
    preset = preset_in_file if preset is None else preset
    if preset is not None and not isinstance(preset, str):
        raise UserError(f"preset is {preset!r}", path=file, fix=f"choose from {', '.join(PRESETS)}")
    typed = values.get("method") or from_file.get("method")
    name, of_variant = _method_name(str(typed or TrainConfig.method))
    method = find_method(name)
    presets = lookup("preset", preset, PRESETS) if preset else {}
    from_preset = presets.get(name, presets.get("supervised", {}))  # user-defined methods use the shared part
    classes = (TrainConfig, method.Options)
    if file:
        from_file = check_mapping(classes, from_file, file)
    below = from_preset | of_variant | from_file
    for pair in EXCLUSIVE:
        for one, other in (pair, pair[::-1]):
            if one in values:
                below.pop(other, None)
    given = below | values | ({"method": name} if typed else {})
    try:
        config, options = from_mapping(classes, given | {"method": name}, "options")
    except UserError as error:  # a range is checked after merging: name the file if the value comes from it
        named = str(error).removeprefix("options: ").partition(":")[0].removeprefix("--").replace("-", "_")
        if named not in from_file or named in values:
            raise
        raise UserError(error.problem, path=file, option=error.option, fix=error.fix) from None
    if config.init is not None:
        given["init"] = os.path.abspath(config.init)  # valid from any working directory
        config = replace(config, init=given["init"])
    return given, (config, options)


def _method_name(name: str) -> tuple[str, dict[str, Any]]:
    """Return the method and the options of a method, alias, variant or file of a user-defined method."""
    name, of_variant = VARIANTS.get(name, (ALIASES.get(name, name), {}))
    find_method(name)
    if is_method_file(name):
        trust(name)
        name = f"{Path(name.rpartition(':')[0]).resolve()}:{short_name(name)}"  # valid from any working directory
    return name, of_variant
