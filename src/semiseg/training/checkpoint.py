"""Checkpoints: plain nested dicts of tensors and numbers, safe to read from a stranger, never half written."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from semiseg.config import TrainConfig, to_mapping
from semiseg.errors import UserError
from semiseg.methods import Method
from semiseg.training.disk import naming

FORMAT = 1
KEYS = {"step", "best", "config", "classes", "palette", "method"}
# What one may change between two sittings of a run: where it runs and where its data lie.
MOVABLE = (
    *("data", "workers", "accelerator", "devices", "nodes", "precision", "deterministic"),
    *("tensorboard", "tracker", "keep"),
)


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that after a crash the old or the new file is there, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with naming(path), open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()  # on a full disk, half a file is in the way of whatever is written next
        raise


def _canonical(value: Any) -> Any:
    """Rebuild nested containers with interned strings.

    Pickle writes an object met twice as a reference. Which equal strings are one object depends on whether the process
    was resumed; rebuilt this way, equal content gives equal bytes.
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
    """Write ``state``, nested dicts and lists of tensors, numbers, strings and None, to ``path``; equal states give
    equal files."""
    buffer = io.BytesIO()
    torch.save(_canonical(state), buffer)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, executing nothing in it (``weights_only=True``).

    Raises:
        UserError: no such file, or not a checkpoint of semiseg.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint: check the path, or train first")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes make of the reader: the file is damaged, or something else
        reason = type(error).__name__
        raise UserError(f"{path}: cannot be read as a checkpoint ({reason}): use one written by semiseg") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not state.keys() >= KEYS:
        raise UserError(f"{path}: not a checkpoint of semiseg: use checkpoints/best.pt or last.pt of a run")
    return state


def restore(method: Method, state: dict[str, Any], config: TrainConfig, source: Path) -> None:
    """Load the networks of a checkpoint; raises UserError where it is not one that this run can go on from."""
    remedy = "put the run's own last.pt back, or remove it to start over"
    if "optimizer" not in state:
        raise UserError(f"{source}: it holds no optimizer, so it is no last.pt: {remedy}")
    ours = to_mapping(config, method.options)
    for key, theirs in state["config"].items():
        if key not in MOVABLE and ours.get(key) != theirs:
            raise UserError(f"{source}: of another run ({key} is {theirs} there, {ours.get(key)} here): {remedy}")
    try:
        method.load_state_dict(state["method"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        raise UserError(f"{source}: a checkpoint of another network ({reason}): {remedy}") from None
