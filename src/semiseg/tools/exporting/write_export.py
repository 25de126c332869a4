"""Write an export to a temporary directory, compare it with PyTorch, and rename it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from semiseg.data.files.atomic_folder import is_free, new_folder
from semiseg.errors import UserError, lookup
from semiseg.networks import SegmentationNetwork
from semiseg.tools.exporting.export_config import WEIGHTS, Description, read_export
from semiseg.tools.exporting.traced_network import make_program, quiet, size_rule

LIMIT = 1e-3  # largest difference of a logit; rounding in float32 gives 1e-6 to 1e-4
CHECKED_SIZES = ((192, 256), (160, 128))  # in pixels, before rounding to multiples of the stride
Run = Callable[[Tensor], Tensor]
"""The exported network: images float ``(N, channels, H, W)`` in [0, 1] to logits ``(N, C, H, W)``."""


def write_safetensors(network: SegmentationNetwork, folder: Path) -> Run:
    """Write ``model.safetensors``; return the network read back from it."""
    content = save({name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()})
    (folder / WEIGHTS).write_bytes(content)  # save_file ignores the umask
    return read_export(folder / WEIGHTS)[1].to(memory_format=torch.channels_last)


def write_torch(network: SegmentationNetwork, folder: Path) -> Run:
    """Write ``model.pt2`` with torch.export; return the program read back from it."""
    with quiet():
        torch.export.save(make_program(network), folder / "model.pt2")
        run: Run = torch.export.load(folder / "model.pt2").module()
    return run


def write_onnx(network: SegmentationNetwork, folder: Path) -> Run:
    """Write ``model.onnx``; return the graph as run by ONNX Runtime.

    Raises:
        UserError: The extra is not installed.
    """
    try:
        import onnx  # noqa: F401 (torch.onnx needs both and reports it late)
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("onnx needs an extra", option="format", fix="run pip install 'semiseg[export]'") from None
    print("Exporting to ONNX, which can take two minutes", file=sys.stderr, flush=True)
    with quiet():
        torch.onnx.export(
            make_program(network),
            (),
            folder / "model.onnx",
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


FORMATS: dict[str, Callable[[SegmentationNetwork, Path], Run]] = {
    "safetensors": write_safetensors,
    "torch": write_torch,
    "onnx": write_onnx,
}


def write_export(
    network: SegmentationNetwork,
    description: Description,
    card: str,
    images: Sequence[Tensor],
    out: Path,
    format: str,
) -> float:
    """Write the network to the new directory ``out``, with ``config.json`` and ``README.md``.

    Args:
        network: The network, on the CPU, in eval mode.
        description: The content of ``config.json``.
        card: The content of ``README.md``.
        images: Images for the comparison, uint8 ``(channels, H, W)``, at least one.
        out: A directory that does not exist or is empty.
        format: A key of ``FORMATS``.

    Returns:
        The largest difference of a logit between the network and the export.

    Raises:
        UserError: ``out`` exists or cannot be written, the encoder cannot be traced, or the difference exceeds
            ``LIMIT``. No files remain.
    """
    write = lookup("format", format, FORMATS)
    if not is_free(out):
        raise UserError("exists", path=out, fix="choose another --out")
    with new_folder(out) as draft:
        description.write(draft)
        if format == "onnx":
            script = "onnx_inference_bands.py" if description.bands or description.white else "onnx_inference.py"
            shutil.copyfile(Path(__file__).with_name(script), draft / "inference.py")
        (draft / "README.md").write_text(card, encoding="utf-8")
        difference = largest_difference(network, _written(write, network, draft, format), images)
        if not difference <= LIMIT:
            raise UserError(
                f"logits of {format} differ from PyTorch by {difference:.1e}, more than {LIMIT:g}; nothing was kept",
                path=out,
                fix="choose another --format",
            )
    return difference


def _written(
    write: Callable[[SegmentationNetwork, Path], Run], network: SegmentationNetwork, folder: Path, format: str
) -> Run:
    try:
        return write(network, folder)
    except (UserError, OSError):
        raise
    except Exception as error:  # the exporters raise many types
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(
            f"{network.architecture} with {network.encoder_name} cannot be exported as {format} ({reason})",
            fix="choose --format safetensors",
        ) from error


@torch.no_grad()
def largest_difference(network: SegmentationNetwork, run: Run, images: Sequence[Tensor]) -> float:
    """Return the largest difference of a logit, over two sizes and batches of one and two images."""
    differences = [(run(batch) - network(batch)).abs().max() for batch in checked_batches(network, images)]
    return float(torch.stack(differences).max())  # NaN is kept and fails the comparison with LIMIT


def checked_batches(network: SegmentationNetwork, images: Sequence[Tensor]) -> Iterator[Tensor]:
    """Yield batches float ``(N, 3, h, w)`` in [0, 1] of the images, in sizes that a graph accepts."""
    multiple, least = size_rule(network)
    for size in CHECKED_SIZES:
        fitting = [max(side // multiple * multiple, least) for side in size]
        for samples in (1, 2):
            chosen = [images[index % len(images)].float()[None] / 255 for index in range(samples)]
            yield torch.cat([F.interpolate(image, fitting, mode="bilinear", antialias=True) for image in chosen])
