"""Start worker processes from scripts without an ``if __name__ == "__main__":`` guard."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

MAIN = "__main__"


@contextmanager
def hidden_main_module(needed: type) -> Iterator[None]:
    """Start processes inside this context without executing the user's script again in each of them.

    Under ``spawn`` and ``forkserver``, a new process imports the main module of its parent. A script without a guard
    would train again there.

    Args:
        needed: A class that the processes unpickle. If the main module defines it, the module is not hidden.
    """
    main = sys.modules[MAIN]
    if needed.__module__ == MAIN:
        yield
        return
    sys.modules[MAIN] = ModuleType(MAIN)
    try:
        yield
    finally:
        sys.modules[MAIN] = main


def require_guard(needed: type) -> None:
    """Exit with one line if worker processes would execute the user's script because it defines ``needed``."""
    file = getattr(sys.modules[MAIN], "__file__", None)
    if needed.__module__ != MAIN or file is None or multiprocessing.get_start_method() == "fork":
        return
    if "__name__" not in Path(file).read_text(encoding="utf-8", errors="replace"):
        problem = f"semiseg: worker processes import {file}, which defines {needed.__name__}."
        raise SystemExit(f'{problem} Put its calls below `if __name__ == "__main__":`.')


def require_main_process() -> None:
    """Exit with one line in a process that is just importing the main module of its parent."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        problem = "semiseg: the script runs again in each worker process."
        raise SystemExit(f'{problem} Put its calls below `if __name__ == "__main__":`.')
