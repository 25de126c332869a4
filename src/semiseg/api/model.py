"""A trained network, from a run or a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from semiseg.config import TrainConfig, from_mapping
from semiseg.data.images import read_image_file
from semiseg.devices import find_accelerator
from semiseg.errors import UserError, lookup
from semiseg.evaluation.evaluate import TEACHERS_AVERAGE
from semiseg.evaluation.predictor import Prediction, Predictor
from semiseg.networks import build
from semiseg.training.checkpoint import load_checkpoint
from semiseg.training.find_method import find_method
from semiseg.training.run_directory import RunDirectory


class Model:
    """A trained network, ready to use: ``model(image)`` returns ``Prediction(mask, confidence)``.

    ``image`` is a path, or uint8 ``(3, H, W)``, RGB, of any size; ``mask`` is uint8 ``(H, W)`` and ``confidence`` float
    ``(H, W)`` in [0, 1], at the image's size.
    """

    def __init__(self, checkpoint: Path, network: str | None = None, accelerator: str = "auto") -> None:
        state = load_checkpoint(checkpoint)
        self.path, self.step = checkpoint, int(state["step"])
        self.classes, self.palette = tuple(state["classes"]), tuple(tuple(color) for color in state["palette"])
        method = find_method(state["config"]["method"])
        self.config, options = from_mapping((TrainConfig, method.Options), state["config"], str(checkpoint))
        device = torch.device(find_accelerator(accelerator))
        shape = (self.config.architecture, self.config.encoder, len(self.classes))
        self.method = method(lambda: build(*shape, weights="none"), len(self.classes), options)
        try:
            self.method.load_state_dict(state["method"])
        except RuntimeError as error:
            raise UserError(
                f"{checkpoint}: its weights do not fit the network it names, {shape[0]} over {shape[1]} "
                f"({str(error).splitlines()[-1].strip()[:120]}): use an unchanged checkpoint"
            ) from None
        self.method.to(device).to(memory_format=torch.channels_last).eval()
        self.device, self.networks = device, self.method.predictors
        self.network = network or self.method.default_network
        self.predictor = self.make_predictor(self.network)

    def make_predictor(self, name: str, mode: str = "whole") -> Predictor:
        """Return the predictor of one network, or of the average of all teachers.

        Raises:
            UserError: the method has no such network.
        """
        teachers = [net for key, net in self.networks.items() if key.startswith("teacher")]
        choices = dict(self.networks) | ({TEACHERS_AVERAGE: teachers} if len(teachers) > 1 else {})
        chosen: nn.Module | list[nn.Module] = lookup("network", name, choices)
        return Predictor(chosen, mode, self.config.crop_size, self.config.image_scale, self.device)

    def __call__(self, image: Tensor | str | Path) -> Prediction:
        """Predict one image, given as a path or as uint8 ``(3, H, W)``."""
        return self.predictor(image if isinstance(image, Tensor) else read_image_file(image))


def find_checkpoint(path: str | Path, checkpoint: str = "best") -> Path:
    """Return the checkpoint file that ``path``, a run or a file, means.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if path.is_dir():
        run = RunDirectory.open(path)
        path = lookup("checkpoint", checkpoint, {"best": run.best, "last": run.last})
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint: check the path, or train until the first validation")
    return path


def load(path: str | Path, network: str | None = None, checkpoint: str = "best", accelerator: str = "auto") -> Model:
    """Load a trained model from a run directory or a checkpoint file.

    Example:
        ``mask = semiseg.load("runs/flowers")("photo.jpg").mask``
    """
    return Model(find_checkpoint(path, checkpoint), network, accelerator)
