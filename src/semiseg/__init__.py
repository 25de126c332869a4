"""Semi-supervised semantic segmentation: few masks and many images in, a trained model out.

The verbs of the command line are loaded on first use, so that importing costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "UserError",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "export",
    "load",
    "predict",
    "report",
    "suggest",
    "train",
]

if TYPE_CHECKING:
    from semiseg.api import check, evaluate, export, load, predict, report, train
    from semiseg.comparison import compare
    from semiseg.errors import UserError
    from semiseg.suggestion import suggest

_HOMES = {"UserError": "semiseg.errors", "compare": "semiseg.comparison", "suggest": "semiseg.suggestion"}


def __getattr__(name: str) -> Any:
    import importlib

    if name in __all__:
        return getattr(importlib.import_module(_HOMES.get(name, "semiseg.api")), name)
    raise AttributeError(f"module 'semiseg' has no attribute {name!r}")
