"""Semi-supervised semantic segmentation: few masks and many images in, a trained model out.

``train``, ``evaluate``, ``predict``, ``compare``, ``report``, ``export`` and ``load`` are loaded on first use, so that
importing costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "compare", "evaluate", "export", "load", "predict", "report", "train"]

if TYPE_CHECKING:
    from semiseg.api import evaluate, export, load, predict, report, train
    from semiseg.comparison import compare
    from semiseg.errors import UserError


def __getattr__(name: str) -> Any:
    import importlib

    if name == "UserError":
        return importlib.import_module("semiseg.errors").UserError
    if name == "compare":
        return importlib.import_module("semiseg.comparison").compare
    if name in __all__:
        return getattr(importlib.import_module("semiseg.api"), name)
    raise AttributeError(f"module 'semiseg' has no attribute {name!r}")
