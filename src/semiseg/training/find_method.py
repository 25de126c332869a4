"""Methods by name: those of this package, and a stranger's own, by file and class."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import ModuleType

from semiseg.errors import UserError, did_you_mean
from semiseg.methods import ALIASES, METHODS, VARIANTS, Method


def find_method(name: str) -> type[Method]:
    """Return the method that is meant: a key of ``METHODS``, or ``path/to/file.py:ClassName``.

    The file is run, once a process.

    Raises:
        UserError: there is no such method, file or class, or it is no method.
    """
    if name in METHODS:
        return METHODS[name]
    if not is_own(name):
        known = {**METHODS, **ALIASES, **VARIANTS}
        raise UserError(f"unknown method {name!r}: {did_you_mean(name, known)}; your own: path/to/file.py:ClassName")
    path, _, class_name = name.rpartition(":")
    found = getattr(_load(Path(path)), class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Method)) or inspect.isabstract(found):
        raise UserError(f"{path}: {class_name} is no class there that is a semiseg Method with a training_step")
    options = getattr(found, "Options", None)
    if not is_dataclass(options) or any(f.default is MISSING and f.default_factory is MISSING for f in fields(options)):
        raise UserError(f"{path}: {class_name}.Options must be a dataclass, with a default for each option there is")
    return found


def is_own(name: str) -> bool:
    """Tell whether a method's name is a file and a class."""
    return name.rpartition(":")[0].endswith(".py")


def short_name(name: str) -> str:
    """Return a method's name, of a file and a class the class: what one can call a folder."""
    return name.rpartition(":")[2]


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{path}: no such file: give the method as path/to/file.py:ClassName")
    module_name = f"semiseg_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a stranger's file may raise
        del sys.modules[module_name]
        raise UserError(f"{path}: cannot be imported ({type(error).__name__}: {error}): correct the file") from error
    return module
