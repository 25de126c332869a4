"""Checkpoints: plain nested dicts of tensors and numbers, safe to read from a stranger, never half written."""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from semiseg.config import TrainConfig, to_mapping
from semiseg.errors import UserError, short_repr
from semiseg.methods import Method
from semiseg.training.disk_space import naming

FORMAT = 1
START_OVER = "remove metrics.jsonl and what is in checkpoints/ to start over"
KEYS = {"step", "best", "config", "classes", "palette", "method"}
TABLES = ("best", "config", "method")
# What one may change between two sittings of a run: where it runs, where its data lie, what it tells and keeps.
MOVABLE = (
    *("data", "workers", "accelerator", "devices", "nodes", "precision", "deterministic"),
    *("tensorboard", "tracker", "keep", "strict"),
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
        if _inflates(path):
            raise ValueError("it would take more memory than its size says")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes make of the reader: the file is damaged, or something else
        reason = type(error).__name__
        raise UserError(f"{path}: cannot be read as a checkpoint ({reason}): use one written by semiseg") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not _is_sound(state):
        raise UserError(f"{path}: not a checkpoint of semiseg: use checkpoints/best.pt or last.pt of a run")
    return state


def _inflates(path: Path) -> bool:
    """Tell whether a file unpacks to more bytes than it has: PyTorch's do not, and a small one could fill memory."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size


def _is_sound(state: dict[str, Any]) -> bool:
    """Tell whether all is there, and of the kind that its readers rely on."""
    if not state.keys() >= KEYS:
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
    """Raise UserError, naming the file ``path``, where a tensor of it holds NaN or infinity."""
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            raise UserError(f"{path}: {name} holds values that are no finite numbers: use an undamaged checkpoint")


def load_optimizer(path: Path, optimizer: Any, state: Any) -> None:
    """Fill an optimizer with its part of the checkpoint ``path``.

    Raises:
        UserError: it does not fit the parameters, or holds NaN or infinity.
    """
    try:
        optimizer.load_state_dict(state)
        for parameter, values in optimizer.state.items():
            tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
            if any(value.dim() and value.shape != parameter.shape for value in tensors.values()):
                raise ValueError("of another shape")
            check_finite(path, {f"the optimizer's {name}": value for name, value in tensors.items()})
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, IndexError) as error:
        raise UserError(
            f"{path}: its optimizer does not fit the network ({type(error).__name__}): put the run's own last.pt back, "
            f"or {START_OVER}"
        ) from None


def restore(method: Method, state: dict[str, Any], config: TrainConfig, source: Path) -> None:
    """Load the networks of a checkpoint; raises UserError where it is not one that this run can go on from."""
    remedy = f"put the run's own last.pt back, or {START_OVER}"
    if "optimizer" not in state:
        raise UserError(f"{source}: it holds no optimizer, so it is no last.pt: {remedy}")
    ours = to_mapping(config, method.options)
    for key, theirs in state["config"].items():
        if key not in MOVABLE and ours.get(key) != theirs:
            there, here = short_repr(theirs), short_repr(ours.get(key))
            raise UserError(f"{source}: of another run ({key} is {there} there, {here} here): {remedy}")
    try:
        method.load_state_dict(state["method"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        raise UserError(f"{source}: a checkpoint of another network ({reason}): {remedy}") from None
    check_finite(source, method.state_dict())
