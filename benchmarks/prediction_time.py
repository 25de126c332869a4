"""Images per second of prediction on a CPU: semiseg, ONNX Runtime and OpenVINO, decoding and encoding included.

    python benchmarks/prediction_time.py [--images 8 --size 640 480 --threads 1 --rounds 3] [--json FILE]

All use the same network and photographs (JPEG) and write masks (PNG). The engines take turns; the table shows the
best round of each. Both engines read the network that ``semiseg export --format onnx`` writes. An engine that is not
installed is left out. ``engine alone`` is the time of the network without decoding and encoding.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from semiseg.inference.bounded_predictor import BoundedPredictor
from semiseg.inference.files.find_images import find_images
from semiseg.inference.files.predict_files import plan_files, predict_files
from semiseg.inference.formats.prediction_writer import MASK, PredictionWriter
from semiseg.inference.predictor import Predictor
from semiseg.networks import build

CLASSES = 11
PALETTE = [(index, 20 * index, 255 - 20 * index) for index in range(CLASSES)]
Run = Callable[[Tensor], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), help="width and height, multiples of 16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engines", nargs="*", default=["onnxruntime", "openvino"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = build("deeplabv3plus-separable", "tf_efficientnet_lite0", CLASSES).train()
    with torch.no_grad():
        network(torch.rand(4, 3, 128, 128))  # BatchNorm statistics that differ from 0 and 1
    network = network.eval().to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as scratch:
        rows = compare(network, photographs(Path(scratch), args), Path(scratch), args)
    print("| prediction by | images/s | network alone, images/s | largest difference of logits |\n|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {row['images_per_s']:.2f} | {row['network_images_per_s']:.2f} | {row['difference']:.1e} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def photographs(scratch: Path, args: argparse.Namespace) -> Path:
    """Write JPEGs with smooth random colors."""
    folder = scratch / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(args.images):
        small = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        small.resize(tuple(args.size), Image.Resampling.BICUBIC).save(folder / f"{index:03}.jpg", quality=90)
    return folder


def compare(network: nn.Module, folder: Path, scratch: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return images per second of each engine."""
    predictor = Predictor(network)
    files = sorted(folder.iterdir())
    example = predictor.network_input(torch.from_numpy(np.asarray(Image.open(files[0])).transpose(2, 0, 1).copy()))

    def fast(images: Tensor) -> Tensor:
        with predictor.ready_networks() as networks:
            logits: Tensor = networks[0](images)
            return logits

    networks: dict[str, Run] = {"semiseg": fast, "PyTorch, as trained": network}
    networks |= engines(network, scratch, args)
    whole = {name: lambda out, run=run: loop(run, files, out) for name, run in networks.items()}
    whole["semiseg"] = lambda out: semiseg(predictor, folder, out)
    with torch.inference_mode():
        expected = network(example)
        rows = {
            name: {"difference": float((torch.as_tensor(run(example)) - expected).abs().max())}
            for name, run in networks.items()
        }
        for turn in range(args.rounds):
            for name, run in networks.items():
                times = {
                    "images_per_s": seconds(lambda: whole[name](scratch / f"{turn}-{name}")),  # noqa: B023
                    "network_images_per_s": seconds(lambda: [run(example) for _ in files]),  # noqa: B023
                }
                for key, took in times.items():
                    rows[name][key] = max(rows[name].get(key, 0), len(files) / took)
    return rows


def engines(network: nn.Module, scratch: Path, args: argparse.Namespace) -> dict[str, Run]:
    """Return the installed engines among ``args.engines``, with the exported network."""
    from semiseg.tools.exporting.write_export import write_onnx

    if not args.engines:
        return {}
    write_onnx(network, scratch)
    file, found = scratch / "model.onnx", dict[str, Run]()
    if "onnxruntime" in args.engines:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        found["ONNX Runtime"] = lambda images: session.run(None, {"images": images.numpy()})[0]
    if "openvino" in args.engines:
        try:
            import openvino
        except ImportError:
            return found
        settings = {"INFERENCE_NUM_THREADS": args.threads, "INFERENCE_PRECISION_HINT": "f32"}
        request = openvino.compile_model(file, "CPU", settings).create_infer_request()
        found["OpenVINO"] = lambda images: request.infer({0: images.numpy()})[0]
    return found


def semiseg(predictor: Predictor, folder: Path, out: Path) -> None:
    """Predict the files of a folder as ``semiseg predict`` does."""
    writer = PredictionWriter(BoundedPredictor(predictor, 480), [""] * CLASSES, PALETTE, [MASK])
    out.mkdir()
    assert all(predict_files(writer, plan_files(find_images([str(folder)], out).images, [MASK], out, False)))


def loop(run: Run, files: list[Path], out: Path) -> None:
    """Decode, predict and encode one file after the other, as the script of an export does."""
    out.mkdir()
    for file in files:
        pixels = torch.from_numpy(np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1).copy())
        logits = torch.as_tensor(run(pixels.float().div_(255)[None]))
        mask = Image.fromarray(logits[0].max(dim=0).indices.to(torch.uint8).numpy(), mode="P")
        mask.putpalette([value for color in PALETTE for value in color])
        mask.save(out / f"{file.stem}.png")


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that ``work`` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
