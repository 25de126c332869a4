"""Predict images at their own size and evaluate networks with exact counts."""

from semiseg.inference.evaluation import TEACHERS_AVERAGE, Evaluation, evaluate_networks, parameter_distance
from semiseg.inference.metrics import ConfusionMatrix
from semiseg.inference.predictor import Prediction, Predictor

__all__ = [
    "TEACHERS_AVERAGE",
    "ConfusionMatrix",
    "Evaluation",
    "Prediction",
    "Predictor",
    "evaluate_networks",
    "parameter_distance",
]
