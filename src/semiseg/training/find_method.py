"""Find methods by name: built-in ones, and user-defined ones as ``path/to/file.py:ClassName``."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import ModuleType

from semiseg.errors import UserError, unknown
from semiseg.methods import ALIASES, METHODS, VARIANTS, Method

TRUSTED = "SEMISEG_OWN_METHODS"
"""Environment variable with the files that runs and checkpoints may name. Child processes inherit it."""


def find_method(name: str, named_in: Path | None = None) -> type[Method]:
    """Return the method ``name``: a key of ``METHODS``, or ``path/to/file.py:ClassName``.

    The file is executed once per process.

    Args:
        name: The name of the method.
        named_in: The file of a run that names the method, instead of the user. Such a file may be untrusted, so the
            code it names must be trusted (see ``TRUSTED``).

    Raises:
        UserError: The method, file or class does not exist, is not a method, or is not trusted.
    """
    if name in METHODS:
        return METHODS[name]
    if not is_method_file(name):
        known = {**METHODS, **ALIASES, **VARIANTS}
        error = unknown("method", name, known)
        own = "give your own as path/to/file.py:ClassName"
        raise UserError(error.problem, fix=f"{error.fix}, or {own}" if error.fix else own)
    file, _, class_name = name.rpartition(":")
    if named_in is not None and Path(file).resolve() not in _trusted():
        raise UserError(
            f"names code, {file}, which is not executed without permission",
            path=named_in,
            fix=f"if you trust the code, set {TRUSTED}={file}",
        )
    found = getattr(_load(Path(file)), class_name, None)
    if not (inspect.isclass(found) and issubclass(found, Method)) or inspect.isabstract(found):
        raise UserError(
            f"{class_name} is not a subclass of semiseg.methods.Method with a training_step",
            path=file,
            fix="correct the file or the name",
        )
    options = getattr(found, "Options", None)
    if not is_dataclass(options) or any(f.default is MISSING and f.default_factory is MISSING for f in fields(options)):
        raise UserError(
            f"{class_name}.Options must be a dataclass with a default for every option",
            path=file,
            fix="correct the file",
        )
    return found


def trust(name: str) -> None:
    """Allow runs and checkpoints to name this user-defined method."""
    path = Path(name.rpartition(":")[0]).resolve()
    os.environ[TRUSTED] = os.pathsep.join(dict.fromkeys([*map(str, _trusted()), str(path)]))


def _trusted() -> list[Path]:
    return [Path(path).resolve() for path in os.environ.get(TRUSTED, "").split(os.pathsep) if path]


def is_method_file(name: str) -> bool:
    """Return whether a method is given as ``path/to/file.py:ClassName``."""
    return name.rpartition(":")[0].endswith(".py")


def short_name(name: str) -> str:
    """Return the name of a method without its file, suitable for a directory name."""
    return name.rpartition(":")[2]


def _load(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError("no such file", path=path, fix="give the method as path/to/file.py:ClassName")
    module_name = f"semiseg_own_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # user code may raise anything
        del sys.modules[module_name]
        raise UserError(
            f"cannot be imported ({type(error).__name__}: {error})", path=path, fix="correct the file"
        ) from error
    return module
