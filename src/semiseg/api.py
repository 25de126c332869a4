"""Deprecated module of semiseg 0.1.0; import the functions from ``semiseg`` instead."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

_MOVED = {
    "Model": "semiseg.tools.models.trained_model.Model",
    "outcome": "semiseg.tools.report.run_files.result_line",
    "prepare": "semiseg.workflows.prepare.prepare",
    "resolve": "semiseg.training.resolve_config.resolve",
    "train_with": "semiseg.workflows.train.train_with",
}
_PUBLIC = ("check", "evaluate", "export", "load", "predict", "report", "split", "train")
__all__ = sorted([*_MOVED, *_PUBLIC])


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'semiseg.api' has no attribute {name!r}")
    target = _MOVED.get(name, f"semiseg.{name}")
    warnings.warn(f"semiseg.api is deprecated. Use {target}.", DeprecationWarning, stacklevel=2)
    module, _, attribute = target.rpartition(".")
    return getattr(importlib.import_module(module), attribute)
