"""Checkpoints: plain nested dicts of tensors and numbers, safe to read from a stranger, never half written."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import torch

from semiseg.errors import UserError

FORMAT = 1
KEYS = {"step", "best", "config", "classes", "palette", "method"}


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that after a crash the old or the new file is there, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


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
    if not isinstance(state, dict) or state.get("format") != FORMAT or not _has_head(state):
        raise UserError(f"{path}: not a checkpoint of semiseg: use checkpoints/best.pt or last.pt of a run")
    return state


def _has_head(state: dict[str, Any]) -> bool:
    """Tell whether all that a checkpoint says beside its weights is there, each of its type."""
    if not state.keys() >= KEYS:
        return False
    dicts = all(isinstance(state[key], dict) for key in ("best", "config", "method"))
    lists = all(isinstance(state[key], list) for key in ("classes", "palette"))
    if not dicts or not lists or type(state["step"]) is not int or not isinstance(state["config"].get("method"), str):
        return False
    colors = all(
        isinstance(color, list) and [type(value) for value in color] == [int] * 3 for color in state["palette"]
    )
    return colors and all(isinstance(name, str) for name in state["classes"])
