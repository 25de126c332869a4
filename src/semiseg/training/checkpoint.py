"""Checkpoints: nested dicts of tensors and numbers, safe to load from untrusted sources and written atomically."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from semiseg.config import TrainConfig, to_mapping
from semiseg.errors import UserError, short_repr
from semiseg.methods import Method
from semiseg.networks.published import load_tensors
from semiseg.training.disk_space import add_file_name
from semiseg.training.published_checkpoint import convert_published

FORMAT = 1
START_OVER = "remove metrics.jsonl and the files in checkpoints/ to start over"
RESTORE_LAST = f"restore the run's own last.pt, or {START_OVER}"
REQUIRED_KEYS = {"step", "best", "config", "classes", "palette", "method"}
TABLES = ("best", "config", "method")
# Options that may differ when a run is resumed: they do not change what it learns.
MAY_CHANGE = (
    *("data", "unlabeled", "workers", "accelerator", "devices", "nodes", "precision", "deterministic"),
    *("tensorboard", "tracker", "keep", "strict"),
)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` atomically: after a crash, ``path`` is either the old or the new file."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with add_file_name(path), open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()  # free the space on a full disk
        raise


def _canonical(value: Any) -> Any:
    """Rebuild nested containers with interned strings, so that equal content gives equal bytes.

    Pickle writes a repeated object as a reference. Which equal strings are the same object depends on whether the
    process was resumed.
    """
    if isinstance(value, dict):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, str):
        return sys.intern(str(value))
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    return value


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path``; equal states give equal files.

    Args:
        path: The file.
        state: Nested dicts and lists of tensors, numbers, strings and None.
    """
    buffer = io.BytesIO()
    torch.save(_canonical(state), buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint of a run, or a published one, onto the CPU without executing code (``weights_only=True``).

    A published one is described under the key ``published``.

    Raises:
        UserError: The file does not exist or is not such a checkpoint.
    """
    if not path.is_file():
        raise UserError("no such checkpoint", path=path, fix="check the path, or train first")
    try:
        state = load_tensors(path)
    except Exception as error:  # damaged files raise many types of errors
        reason = type(error).__name__
        raise UserError(
            f"cannot be read as a checkpoint ({reason})", path=path, fix="use one written by semiseg"
        ) from None
    if isinstance(state, dict) and state.get("format") == FORMAT and _is_valid(state):
        return state
    if published := convert_published(state, path):
        return published
    fix = "use checkpoints/best.pt or checkpoints/last.pt of a run, or a published one (docs/published-networks.md)"
    raise UserError("not a checkpoint of semiseg", path=path, fix=fix)


def _is_valid(state: dict[str, Any]) -> bool:
    """Return whether all required keys have values of the expected types."""
    if not state.keys() >= REQUIRED_KEYS:
        return False
    classes, palette, best = state["classes"], state["palette"], state["best"]
    return (
        all(isinstance(state[key], dict) and all(isinstance(name, str) for name in state[key]) for key in TABLES)
        and isinstance(state["config"].get("method"), str)
        and type(state["step"]) is int
        and [type(best.get(key)) for key in ("miou", "step")] in ([float, int], [int, int])
        and isinstance(classes, list)
        and all(isinstance(name, str) for name in classes)
        and 1 <= len(classes) == len(set(classes)) <= 255
        and isinstance(palette, list)
        and len(palette) == len(classes)
        and all(isinstance(color, list) and len(color) == 3 for color in palette)
        and all(type(value) is int and 0 <= value <= 255 for color in palette for value in color)
    )


def check_finite(path: Path, weights: Mapping[str, Any]) -> None:
    """Raise UserError if a tensor of the checkpoint ``path`` contains NaN or infinity."""
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"{name} contains NaN or infinity", path=path, fix="use an undamaged checkpoint")


def load_optimizer(path: Path, optimizer: Any, state: Any) -> None:
    """Load the optimizer state of the checkpoint ``path``.

    Raises:
        UserError: The state does not fit the parameters, or contains NaN or infinity.
    """
    try:
        optimizer.load_state_dict(state)
        for parameter, values in optimizer.state.items():
            tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
            if any(value.dim() and value.shape != parameter.shape for value in tensors.values()):
                raise ValueError("shapes differ")
            check_finite(path, {f"optimizer state {name}": value for name, value in tensors.items()})
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError) as error:
        raise UserError(
            f"the optimizer state does not fit the network ({type(error).__name__})", path=path, fix=RESTORE_LAST
        ) from None


def restore(method: Method, state: dict[str, Any], config: TrainConfig, source: Path) -> None:
    """Load the networks of the checkpoint ``source`` into ``method``.

    Raises:
        UserError: The checkpoint is not a last.pt, belongs to another run, or does not fit the networks.
    """
    if "optimizer" not in state:
        raise UserError("has no optimizer state, so it is not a last.pt", path=source, fix=RESTORE_LAST)
    ours = to_mapping(config, method.options)
    extendable = (*MAY_CHANGE, "steps", "epochs")  # of which the trainer checks that they do not shorten the run
    for key, theirs in state["config"].items():
        if key not in extendable and ours.get(key) != theirs:
            there, here = short_repr(theirs), short_repr(ours.get(key))
            raise UserError(
                f"belongs to another run ({key} is {there} there, {here} here)", path=source, fix=RESTORE_LAST
            )
    try:
        method.load_state_dict(state["method"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        raise UserError(f"contains another network ({reason})", path=source, fix=RESTORE_LAST) from None
    check_finite(source, method.state_dict())
