"""Methods by name: those of this package, and a stranger's own, by file and class."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import ModuleType

from semiseg.errors import UserError, did_you_mean
from semiseg.methods import ALIASES, METHODS, VARIANTS, Method

TRUSTED = "SEMISEG_OWN_METHODS"
"""The variable of the environment, which child processes inherit, with the files that runs and checkpoints may name."""


def find_method(name: str, named_in: Path | None = None) -> type[Method]:
    """Return the method that is meant: a key of ``METHODS``, or ``path/to/file.py:ClassName``.

    The file is run, once a process. Where it is not the user who names it but the file ``named_in`` (of a run, perhaps
    a stranger's), it has to be a trusted one.

    Raises:
        UserError: there is no such method, file or class, it is no method, or its file is not trusted.
    """
    if name in METHODS:
        return METHODS[name]
    if not is_own(name):
        known = {**METHODS, **ALIASES, **VARIANTS}
        raise UserError(f"unknown method {name!r}: {did_you_mean(name, known)}; your own: path/to/file.py:ClassName")
    path, _, class_name = name.rpartition(":")
    if named_in is not None and Path(path).resolve() not in _trusted():
        raise UserError(
            f"{named_in}: it names code, {path}, and code that a file names is not run unasked; if you trust it, set "
            f"{TRUSTED}={path}"
        )
    found = getattr(_load(Path(path)), class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Method)) or inspect.isabstract(found):
        raise UserError(f"{path}: {class_name} is no class there that is a semiseg Method with a training_step")
    options = getattr(found, "Options", None)
    if not is_dataclass(options) or any(f.default is MISSING and f.default_factory is MISSING for f in fields(options)):
        raise UserError(f"{path}: {class_name}.Options must be a dataclass, with a default for each option there is")
    return found


def trust(name: str) -> None:
    """Let runs and checkpoints name this method, whose file and class the user has given."""
    path = Path(name.rpartition(":")[0]).resolve()
    os.environ[TRUSTED] = os.pathsep.join(dict.fromkeys([*map(str, _trusted()), str(path)]))


def _trusted() -> list[Path]:
    return [Path(path).resolve() for path in os.environ.get(TRUSTED, "").split(os.pathsep) if path]


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
