"""The methods of a comparison: each with its own options, all with the same settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from semiseg.config import TrainConfig, check_mapping, from_mapping, to_mapping
from semiseg.errors import UserError, lookup
from semiseg.methods import ALIASES, METHODS, VARIANTS
from semiseg.training.find_method import find_method
from semiseg.training.resolve_config import given_options

VARIED = ("method", "labeled", "seed")
"""Options of ``TrainConfig`` that differ between the cells of a comparison."""
SHARED = tuple(f.name for f in fields(TrainConfig) if f.name not in VARIED)
"""Options of ``TrainConfig`` that all cells share."""
ALL = "all"
"""The share of labels that means all masks."""


@dataclass(frozen=True)
class MethodEntry:
    """A method in a comparison.

    Attributes:
        name: Its name in tables and pictures: the method's name, or one from the configuration file.
        config: Its configuration; ``labeled`` and ``seed`` are set for each cell.
        options: The options of the method.
    """

    name: str
    config: TrainConfig
    options: Any

    def own(self) -> dict[str, Any]:
        """Return the method's name and options."""
        return {"method": self.config.method} | to_mapping(self.options)

    def shared(self) -> dict[str, Any]:
        """Return the settings that all methods of a comparison share."""
        return {key: value for key, value in to_mapping(self.config).items() if key not in VARIED}


def make_entries(
    names: Sequence[str],
    overrides: Mapping[str, Mapping[str, Any]],
    shared: Mapping[str, Any],
    preset: str | None,
    source: str,
    planned: Callable[[str], dict[str, Any]] | None = None,
) -> dict[str, MethodEntry]:
    """Resolve all methods of a comparison.

    Args:
        names: Keys of ``overrides``, methods or their aliases.
        overrides: Options by name, with ``method`` if the name is not a method.
        shared: Options of every run.
        preset: Name of a preset.
        source: Origin of ``overrides``, for messages.
        planned: Returns the planned options of a method, below all given ones.

    Raises:
        UserError: Unknown method, key or preset, invalid value, duplicate name, or settings that differ between
            methods.
    """
    entries: dict[str, MethodEntry] = {}
    for name in (ALIASES.get(name, name) for name in names):
        if name in entries:
            raise UserError(f"{name} is listed twice", option="methods", fix="remove one of them")
        entries[name] = _entry(name, overrides, shared, preset, f"{source}: methods", planned)
    _check_shared(list(entries.values()), preset)
    return entries


def _entry(
    name: str,
    overrides: Mapping[str, Mapping[str, Any]],
    shared: Mapping[str, Any],
    preset: str | None,
    source: str,
    planned: Callable[[str], dict[str, Any]] | None,
) -> MethodEntry:
    own = {str(key).replace("-", "_"): value for key, value in overrides.get(name, {}).items()}
    known = (*METHODS, *VARIANTS)
    if name in overrides and name not in known and "method" not in own:
        raise UserError(f"{source}: {name} is not a method", fix="add 'method: NAME' to its options, or correct it")
    method = own.pop("method", None) or lookup("method", name, {one: one for one in (*known, *overrides)})
    given = given_options({**shared, "method": method}, preset)
    kinds = (TrainConfig, find_method(given["method"]).Options)
    config, options = from_mapping(kinds, (planned(given["method"]) if planned else {}) | given, "options")
    source = f"{source}: {name}"
    for key in own:
        if key in (*SHARED, *VARIED):
            raise UserError(f"{source}: {key} is the same for all methods", fix="set it once for all of them")
    values = to_mapping(options) | check_mapping((type(options),), own, source)
    (options,) = from_mapping((type(options),), values, source)
    return MethodEntry(name, config, options)


def _check_shared(entries: Sequence[MethodEntry], preset: str | None) -> None:
    """Raise UserError if a preset, or an automatic batch size, gives the methods different settings."""
    if any(entry.config.batch_size == "auto" for entry in entries):
        raise UserError("auto may differ between methods", option="batch-size", fix="give a number")
    for entry in entries[1:]:
        for key, value in entries[0].shared().items():
            if (other := entry.shared()[key]) != value:
                option = key.replace("_", "-")
                raise UserError(
                    f"{preset} gives {option} {value} to {entries[0].name} and {other} to {entry.name}, but all cells "
                    "of a comparison share it",
                    option="preset",
                    fix=f"set --{option}",
                )
