"""Merge defaults, preset, file and options into the configuration of a run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from semiseg.config import EXCLUSIVE, TrainConfig, check_mapping, from_mapping, read_yaml
from semiseg.errors import UserError, lookup
from semiseg.methods import ALIASES, VARIANTS
from semiseg.networks.network_options import CURRENT_VERSION, NetworkOptions
from semiseg.presets import PRESETS
from semiseg.training.find_method import find_method, is_method_file, short_name, trust
from semiseg.training.run_data import RECORDED


def resolve(values: dict[str, Any], preset: str | None = None, file: str | None = None) -> tuple[TrainConfig, Any]:
    """Merge defaults, preset, method variant, file and ``values`` into one configuration; later ones take precedence.

    If neither architecture nor encoder is given, a run with ``init`` has the network of its source.

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
    below = network_of_init({**below, **values}) | below
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


def network_of_init(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the network that ``init`` names, or nothing if other options choose the network.

    Raises:
        UserError: The file of ``init`` cannot be read.
    """
    source = given.get("init")
    if not isinstance(source, str) or "architecture" in given or "encoder" in given or not os.path.exists(source):
        return {}
    from semiseg.training.initial_network import read_initial_network

    values = vars(read_initial_network(Path(os.path.abspath(source))).config)
    structure = {f.name for f in fields(NetworkOptions)} - {"head_dropout", "encoder_drop_path", "version"}
    network = {name: values[name] for name in ("architecture", "encoder", "network_version", *sorted(structure))}
    if network["architecture"] == "dpt" and network["network_version"] is None:
        network["network_version"] = 1  # a run of version 0.1
    return network


SEGFORMER_TRAINING = {"encoder_drop_path": 0.1, "head_dropout": 0.1}
"""How SegFormer's release trains MiT. Methods that drop branches themselves keep 0."""


def complete(config: TrainConfig) -> TrainConfig:
    """Return the configuration of a new run with those defaults that runs of earlier versions do not have."""
    values: dict[str, Any] = {}
    if config.architecture == "dpt" and config.network_version is None:
        values["network_version"] = CURRENT_VERSION
    if config.encoder.startswith("mit_") and config.method in ("supervised", "mean-teacher"):
        values |= {name: value for name, value in SEGFORMER_TRAINING.items() if getattr(config, name) is None}
    return replace(config, **values)
