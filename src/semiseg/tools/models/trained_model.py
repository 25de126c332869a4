"""Load a trained model from a run, a checkpoint or an export."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from semiseg.config import TrainConfig, from_mapping, read_train_config, read_yaml
from semiseg.data import saved_format
from semiseg.data.dataset import Color
from semiseg.data.files.image_files import read_image_file
from semiseg.errors import UserError, lookup
from semiseg.inference.evaluation import TEACHERS_AVERAGE
from semiseg.inference.predictor import Prediction, Predictor, find_accelerator
from semiseg.methods import Method
from semiseg.tools.exporting import read_export
from semiseg.tools.exporting.export_config import WEIGHTS, colors
from semiseg.training.build import build_network
from semiseg.training.checkpoint import check_finite, load_checkpoint
from semiseg.training.find_method import find_method
from semiseg.training.run_data import LOCATED, RECORDED, with_located_paths
from semiseg.training.run_directory import RunDirectory


class Model:
    """A trained model; ``model(image)`` returns ``Prediction(mask, confidence)``.

    ``image`` is a path, or uint8 ``(channels, H, W)``, usually RGB, of any size; ``mask`` is uint8 ``(H, W)`` and
    ``confidence`` float ``(H, W)`` in [0, 1], at the size of the image.

    Attributes:
        path: The checkpoint or export.
        run: The run directory, or None.
        published: The description of a published network, or "".
        step: The training step of the checkpoint.
        classes: The names of the classes.
        palette: Their colors.
        config: The options of the run.
        pixel_format: The bands and the white value of its images.
        method: The method with all its networks; None for an export.
        networks: The networks by name.
        network: The name of the network that ``model(image)`` uses.
        device: The device of the networks.
    """

    def __init__(self, file: Path, network: str | None = None, accelerator: str = "auto") -> None:
        trained = read_safetensors(file) if file.suffix == ".safetensors" else read_checkpoint(file)
        self.path, self.step, self.run = file, trained.step, trained.run
        self.published = trained.published
        self.classes, self.palette = trained.classes, trained.palette
        self.config, self.method = trained.config, trained.method
        self.pixel_format = saved_format(self.config)
        self.device, self.networks = torch.device(find_accelerator(accelerator)), trained.networks
        for net in self.networks.values():
            net.to(self.device).to(memory_format=torch.channels_last).eval()
        self.network = network or trained.default_network
        self.predictor = self.make_predictor(self.network)

    @property
    def choices(self) -> dict[str, nn.Module | list[nn.Module]]:
        """The networks by name, and ``teachers-average`` if there are several teachers."""
        teachers = [net for key, net in self.networks.items() if key.startswith("teacher")]
        return {**self.networks} | ({TEACHERS_AVERAGE: teachers} if len(teachers) > 1 else {})

    def make_predictor(self, name: str, mode: str = "whole") -> Predictor:
        """Return the predictor of one network, or of the average of all teachers.

        Args:
            name: A key of ``choices``.
            mode: ``whole`` or ``slide``, see `Predictor`.

        Raises:
            UserError: The method has no such network.
        """
        network, config = lookup("network", name, self.choices), self.config
        return Predictor(network, mode, config.crop_size, config.image_scale, self.device, self.pixel_format)

    def __call__(self, image: Tensor | str | Path) -> Prediction:
        """Predict one image, given as a path or as uint8 ``(channels, H, W)``."""
        return self.predictor(image if isinstance(image, Tensor) else read_image_file(image, self.pixel_format))


@dataclass(frozen=True)
class Trained:
    """The content of a checkpoint or export, on the CPU; see `Model`.

    Attributes:
        default_network: The name of the network to use by default.
        published: The description of a published network, or "".
        run: The run directory that contains the file, or None.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    step: int
    config: TrainConfig
    method: Method | None
    networks: Mapping[str, nn.Module]
    default_network: str
    run: Path | None
    published: str = ""


def read_checkpoint(file: Path) -> Trained:
    """Read the networks of a checkpoint.

    Raises:
        UserError: The file is not a checkpoint, its weights do not fit the network or are not finite, or it names
            untrusted code.
    """
    state = load_checkpoint(file)
    classes = tuple(state["classes"])
    kind = find_method(str(state["config"].get("method")), named_in=file)
    run = file.parent.parent if (file.parent.parent / "config.yaml").is_file() else None
    values = with_located_paths(state["config"] | (recorded_data(run) if run else {}))
    config, options = from_mapping((TrainConfig, kind.Options), values, str(file))
    channels = saved_format(config).channels
    method = kind(lambda: build_network(config, len(classes), channels), len(classes), options)
    try:
        method.load_state_dict(state["method"])
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        problem = f"its weights do not fit the network {config.architecture} with {config.encoder} ({reason})"
        raise UserError(problem, path=file, fix="use an unchanged checkpoint") from None
    check_finite(file, method.state_dict())
    palette = colors(state["palette"])
    published = state.get("published", "")
    if published:
        print(f"{file}: {published}", file=sys.stderr)
    networks, default = method.predictors, method.default_network
    return Trained(classes, palette, int(state["step"]), config, method, networks, default, run, published)


def recorded_data(run: Path) -> dict[str, Any]:
    """Return the entries of a run's config.yaml about its data, which may have been edited since the checkpoint."""
    try:
        values = read_yaml(run / "config.yaml")
    except UserError:
        return {}
    return {key: value for key, value in values.items() if key in (*LOCATED, *RECORDED)}


def read_safetensors(file: Path) -> Trained:
    """Read the network of an export; its method does not have to be installed.

    Raises:
        UserError: ``config.json`` in the same directory is missing, or the weights do not fit it.
    """
    description, network = read_export(file)
    check_finite(file, network.state_dict())
    config = read_train_config(description.training, str(file.with_name("config.json")))
    name, classes = description.network, description.classes
    return Trained(classes, description.palette, description.step, config, None, {name: network}, name, None)


def find_checkpoint(path: str | Path, checkpoint: str = "best") -> Path:
    """Return the checkpoint or weights of a run, an export or a file.

    Raises:
        UserError: The file does not exist.
    """
    path = Path(path)
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    if path.is_dir():
        run = RunDirectory.open(path)
        path = lookup("checkpoint", checkpoint, {"best": run.best, "last": run.last})
    elif not path.exists() and not path.suffix:
        raise UserError("no such run", path=path, fix="check the path")
    if not path.is_file():
        raise UserError("no such checkpoint", path=path, fix="check the path or train until the first validation")
    return path


def load(path: str | Path, network: str | None = None, checkpoint: str = "best", accelerator: str = "auto") -> Model:
    """Load a trained model from a run directory, a checkpoint file, or the directory of an export as safetensors.

    Args:
        path: The run, checkpoint or export.
        network: The network that ``model(image)`` uses. Defaults to the default network of the method.
        checkpoint: ``best`` or ``last``, for a run.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Example:
        ``mask = semiseg.load("runs/flowers")("photo.jpg").mask``
    """
    return Model(find_checkpoint(path, checkpoint), network, accelerator)
