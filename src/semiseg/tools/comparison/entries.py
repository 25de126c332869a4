"""What is compared: methods under names, their own options resolved, and all else the same for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from semiseg.config import TrainConfig, check_mapping, from_mapping, read_yaml, to_mapping
from semiseg.errors import UserError, did_you_mean, lookup
from semiseg.methods import ALIASES, METHODS, VARIANTS
from semiseg.training.resolve_config import resolve

VARIED = ("method", "labeled", "seed")
"""What the cells of a comparison differ in, beside the methods' own options."""
SHARED = tuple(f.name for f in fields(TrainConfig) if f.name not in VARIED)
LISTS = ("methods", "labeled", "seeds")
ALL = "all"
"""The share of labels that means: all masks there are."""


@dataclass(frozen=True)
class Entry:
    """A method as it is compared.

    Attributes:
        name: what it is called in tables and pictures: the method's name, or one of its own.
        config: its configuration; ``labeled`` and ``seed`` are set for each cell.
        options: the method's own options.
    """

    name: str
    config: TrainConfig
    options: Any

    def own(self) -> dict[str, Any]:
        """Return the method and its options, all that tells it from the others."""
        return {"method": self.config.method} | to_mapping(self.options)

    def shared(self) -> dict[str, Any]:
        """Return what all methods of a comparison have in common."""
        return {key: value for key, value in to_mapping(self.config).items() if key not in VARIED}


def read_file(file: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a comparison's YAML file says: options of every run, and ``methods, labeled, seeds, preset``.

    Raises:
        UserError: it cannot be read, or a key or a value is none that it may hold.
    """
    if file is None:
        return {}, {}
    values = {key.replace("-", "_"): value for key, value in read_yaml(Path(file)).items()}
    known = (*SHARED, *LISTS, "preset")
    for key in values:
        if key not in known:
            raise UserError(f"{file}: unknown key {key!r}: {did_you_mean(key, known)}")
    lists = {key: values.pop(key) for key in (*LISTS, "preset") if key in values}
    methods = lists.get("methods", {})
    if not isinstance(methods, dict) or not all(isinstance(v, dict) or v is None for v in methods.values()):
        raise UserError(f"{file}: methods: expected lines of 'name: {{option: value, ...}}'")
    lists["methods"] = {ALIASES.get(str(name), str(name)): values or {} for name, values in methods.items()}
    if len(lists["methods"]) < len(methods):
        raise UserError(f"{file}: methods: a method stands there under its name and its alias: take one of them out")
    return check_mapping((TrainConfig,), values, file), lists


def make_entries(
    names: Sequence[str],
    overrides: Mapping[str, Mapping[str, Any]],
    shared: Mapping[str, Any],
    preset: str | None,
    source: str,
) -> dict[str, Entry]:
    """Resolve every method to compare.

    Args:
        names: keys of ``overrides``, methods or their aliases.
        overrides: options by name; ``method`` among them where the name is not the method's.
        shared: options of every run.
        preset: a named set of options.
        source: where ``overrides`` comes from, for messages.

    Raises:
        UserError: an unknown method, key or preset, a wrong value, a name that stands there twice, or settings that
            are not the same for all.
    """
    entries: dict[str, Entry] = {}
    for name in (ALIASES.get(name, name) for name in names):
        entry = _entry(name, overrides, shared, preset, source)
        if entry.name in entries:
            raise UserError(f"--methods: {entry.name} stands there twice: take one of them out")
        entries[entry.name] = entry
    _check_same(list(entries.values()), preset)
    return entries


def _entry(
    name: str,
    overrides: Mapping[str, Mapping[str, Any]],
    shared: Mapping[str, Any],
    preset: str | None,
    source: str,
) -> Entry:
    own = {str(key).replace("-", "_"): value for key, value in overrides.get(name, {}).items()}
    known = (*METHODS, *VARIANTS)
    if name in overrides and name not in known and "method" not in own:
        raise UserError(f"{source}: methods: {name} is no method: add 'method: NAME' to its options, or correct it")
    method = own.pop("method", None) or lookup("method", name, {one: one for one in (*known, *overrides)})
    config, options = resolve({**shared, "method": method}, preset)
    for key in own:
        if key in (*SHARED, *VARIED):
            raise UserError(
                f"{source}: methods: {name}: {key} is the same for all methods: set it once for all of them"
            )
    where = f"{source}: methods: {name}"
    (options,) = from_mapping(
        (type(options),), to_mapping(options) | check_mapping((type(options),), own, where), where
    )
    return Entry(name, config, options)


def _check_same(entries: Sequence[Entry], preset: str | None) -> None:
    """A preset may treat methods differently; a comparison may not, but in their own options."""
    if any(entry.config.batch_size == "auto" for entry in entries):
        raise UserError("--batch-size auto: each method would get another batch than the next: give a number")
    for entry in entries[1:]:
        for key, value in entries[0].shared().items():
            if entry.shared()[key] != value:
                option = key.replace("_", "-")
                raise UserError(
                    f"--preset {preset} gives {option} {value} to {entries[0].name} and {entry.shared()[key]} to "
                    f"{entry.name}, and all cells of a comparison share it: decide by --{option}"
                )


def split_names(text: str, known: Iterable[str]) -> list[str]:
    """Split names separated by commas; a known name may hold commas itself, and the longest one is taken.

    Example:
        >>> split_names("supervised, two teachers, mixed", ["two teachers, mixed"])
        ['supervised', 'two teachers, mixed']
    """
    whole = {tuple(piece.strip() for piece in name.split(",")): name for name in known}
    pieces, names = [piece.strip() for piece in text.split(",")], []
    while pieces:
        taken = next((end for end in range(len(pieces), 1, -1) if tuple(pieces[:end]) in whole), 1)
        names.append(whole.get(tuple(pieces[:taken]), pieces[0]))
        pieces = pieces[taken:]
    return [name for name in names if name]
