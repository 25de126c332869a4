"""Semi-supervised semantic segmentation: few masks and many images in, a trained model out.

The functions are loaded on first use, so that importing the package is fast.
"""

from typing import TYPE_CHECKING, Any

from semiseg.version import __version__

__all__ = [
    "UserError",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "export",
    "import_data",
    "load",
    "predict",
    "report",
    "reproduce",
    "serve",
    "split",
    "suggest",
    "train",
]

if TYPE_CHECKING:
    from semiseg.errors import UserError
    from semiseg.tools.models.trained_model import load
    from semiseg.workflows.check import check
    from semiseg.workflows.compare import compare
    from semiseg.workflows.evaluate import evaluate
    from semiseg.workflows.export import export
    from semiseg.workflows.import_data import import_data
    from semiseg.workflows.predict import predict
    from semiseg.workflows.report import report
    from semiseg.workflows.reproduce import reproduce
    from semiseg.workflows.serve import serve
    from semiseg.workflows.split import split
    from semiseg.workflows.suggest import suggest
    from semiseg.workflows.train import train

_MODULES = {
    "UserError": "semiseg.errors",
    "check": "semiseg.workflows.check",
    "compare": "semiseg.workflows.compare",
    "evaluate": "semiseg.workflows.evaluate",
    "export": "semiseg.workflows.export",
    "import_data": "semiseg.workflows.import_data",
    "load": "semiseg.tools.models.trained_model",
    "predict": "semiseg.workflows.predict",
    "report": "semiseg.workflows.report",
    "reproduce": "semiseg.workflows.reproduce",
    "serve": "semiseg.workflows.serve",
    "split": "semiseg.workflows.split",
    "suggest": "semiseg.workflows.suggest",
    "train": "semiseg.workflows.train",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'semiseg' has no attribute {name!r}")
