"""From a network and a data set to figures: predictions at the image's size, exact counts, IoU in percent."""

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
