"""Export a trained network for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from semiseg.config import to_mapping
from semiseg.data import Shapes
from semiseg.errors import UserError, lookup
from semiseg.networks import SegmentationNetwork
from semiseg.tools.exporting import Description
from semiseg.tools.exporting.export_config import public_settings
from semiseg.tools.exporting.model_card import model_card
from semiseg.tools.exporting.traced_network import size_rule
from semiseg.tools.exporting.write_export import FORMATS, write_export
from semiseg.tools.models.trained_model import Model, load
from semiseg.tools.report.run_files import read_run
from semiseg.training.find_method import short_name
from semiseg.training.run_data import open_run_data
from semiseg.training.run_directory import RunDirectory

CHECKED_IMAGES = 2


class Export(NamedTuple):
    """An export: its directory, and the largest difference of its logits from PyTorch."""

    path: Path
    difference: float


def export(
    path: str | Path,
    format: str = "safetensors",
    out: str | Path | None = None,
    *,
    network: str | None = None,
    checkpoint: str = "best",
    data: str | Path | None = None,
) -> Export:
    """Write a trained network as safetensors, with torch.export or as ONNX, to a directory ready for a model hub.

    Args:
        path: A run or a checkpoint.
        format: ``safetensors`` (``semiseg.load`` reads the directory), ``torch`` (``model.pt2``) or ``onnx``.
        out: A new directory. Defaults to ``RUN/export-FORMAT``.
        network: The network to export. Defaults to the default network of the method.
        checkpoint: ``best`` or ``last``.
        data: The data of the run, if they are elsewhere now, for two images to check the export with.

    Raises:
        UserError: The run, network or format does not exist, an extra is missing, the encoder cannot be traced, the
            result differs from PyTorch by more than 1e-3, or the directory exists.
    """
    lookup("format", format, FORMATS)
    model = load(path, network, checkpoint, "cpu")
    if model.method is None:
        raise UserError("is already an export", path=path, fix="export the run or a checkpoint of it")
    exported = lookup("network", model.network, model.networks)  # the average of the teachers has no weights
    assert isinstance(exported, SegmentationNetwork)
    if out is None and model.run is None:
        raise UserError("not inside a run directory", path=path, fix="pass --out")
    folder = Path(out) if out is not None else Path(model.run or "") / f"export-{format}"
    settings = to_mapping(model.config, model.method.options)
    description = describe(model, exported, settings)
    card = model_card(description, format, read_run(model.run) if model.run else None)
    return Export(folder, write_export(exported, description, card, images_to_check(model, data), folder, format))


def describe(model: Model, network: SegmentationNetwork, settings: dict[str, Any]) -> Description:
    """Return the description of a network and the options it was trained with."""
    multiple, least = size_rule(network)
    return Description(
        architecture=network.architecture,
        encoder=network.encoder_name,
        classes=model.classes,
        palette=model.palette,
        mean=tuple(network.mean.flatten().tolist()),
        std=tuple(network.std.flatten().tolist()),
        image_scale=model.config.image_scale,
        size_multiple=multiple,
        least_side=least,
        method=short_name(model.config.method),
        network=model.network,
        checkpoint=model.path.stem,
        step=model.step,
        bands=model.pixel_format.bands,
        white=model.pixel_format.white,
        training=public_settings(settings) | {"method": short_name(model.config.method)},
    )


def images_to_check(model: Model, data: str | Path | None = None) -> Sequence[Tensor]:
    """Return two images uint8 ``(channels, H, W)`` of the val list, or generated ones if the data cannot be opened."""
    try:
        dataset = open_run_data(model.config, model.path, data)
        lists = RunDirectory(model.run).read_split(dataset, unlabeled=False) if model.run else None
        ids = (lists.val if lists else ()) or dataset.ids
        return [dataset.read_image(id) for id in ids[:CHECKED_IMAGES]]
    except (UserError, OSError):
        dataset = Shapes(images=CHECKED_IMAGES, val=1, test=1, size=256)
        channels = [index % 3 for index in range(model.pixel_format.channels)]
        return [dataset.read_image(id)[channels] for id in dataset.ids[:CHECKED_IMAGES]]
