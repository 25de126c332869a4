"""semiseg from Python: the same verbs as on the command line."""

from semiseg.api.exporting import export
from semiseg.api.inference import evaluate
from semiseg.api.model import Model, load
from semiseg.api.predicting import predict
from semiseg.api.preparing import prepare
from semiseg.api.reporting import outcome, report
from semiseg.api.splitting import split
from semiseg.api.training import resolve, train, train_with
from semiseg.checking import check

__all__ = [
    "Model",
    "check",
    "evaluate",
    "export",
    "load",
    "outcome",
    "predict",
    "prepare",
    "report",
    "resolve",
    "split",
    "train",
    "train_with",
]
