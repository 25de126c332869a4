"""Compare our networks with published ones: parameters and reference outputs, as the tables of a page.

Run ``python benchmarks/published_networks.py GOLDEN``, where GOLDEN holds outputs of the releases' own networks. Their
parameters are filled by a rule that depends on their names only (`fill`).
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from semiseg.networks import NetworkOptions, SegmentationNetwork, build
from semiseg.networks.published import Published, read_published

ENTRIES = {
    "unimatch_v1_resnet50": "model",
    "gta_seg_resnet101": "teacher_state",
    "unimatch_v2_dinov2_small": "model_ema",
}
"""The published networks with reference outputs, and the entry of their release's checkpoint that is evaluated."""
CLASSES = 21
DINOV2_UNUSED = 384 + 2 * (64 * 64 * 9 + 64)
"""Parameters of UniMatch V2 small that its forward pass does not use: mask_token and resConfUnit1 of refinenet4."""
ALIGNED = NetworkOptions(align_corners=True)
COUNTS: tuple[tuple[str, str, NetworkOptions, float, str], ...] = (
    ("deeplabv3plus", "resnet50s", ALIGNED, 40.475957, "UniMatch, release's network"),
    ("deeplabv3plus", "resnet101s", ALIGNED, 59.47, "UniMatch, log"),
    ("deeplabv3plus-augseg", "resnet50s", NetworkOptions(), 40.476, "AugSeg, release's network"),
    ("deeplabv3plus-cps", "resnet50s", NetworkOptions(), 40.476, "CPS, as many as UniMatch"),
    ("deeplabv3plus-u2pl", "resnet50s", NetworkOptions(), 43.631, "U2PL, without representation head"),
    ("deeplabv3plus-u2pl", "resnet101s", NetworkOptions(), 62.623189, "GTA-Seg, release's network"),
    ("deeplabv3plus-mmseg", "resnet50c", NetworkOptions(), 43.591, "mmsegmentation, R50-D8 with auxiliary head"),
    (
        "dpt",
        "vit_small_patch14_dinov2",
        NetworkOptions(),
        24.795637,
        f"UniMatch V2; {DINOV2_UNUSED:,} are unused",
    ),
)
"""Architecture, encoder, options, published millions of parameters, and their source."""


def fill(key: str, shape: tuple[int, ...], dtype: str = "float32") -> Tensor:
    """Return the value of an entry of a state dict by the rule of the reference outputs, a function of its name."""
    if dtype == "int64":
        return torch.zeros(shape, dtype=torch.int64)
    value = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    last = key.rpartition(".")[2]
    if last == "weight":
        value = value * np.sqrt(shape[0] / value.size) if len(shape) > 1 else 1 + 0.1 * value
    elif last in ("bias", "running_mean"):
        value = 0.1 * value
    elif last == "running_var":
        value = 1 + 0.1 * abs(value)
    else:
        value = 0.5 + 0.1 * value if last == "gamma" else 0.02 * value
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def fill_network(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the filled state dict of a published network, from the list of its entries."""
    state = {}
    for line in (folder / f"{name}.keys.txt").read_text().splitlines():
        key, shape, dtype = line.split("\t")
        state[key] = fill(key, tuple(int(side) for side in shape.strip("()").split(",") if side), dtype)
    return state


def checksum(state: Mapping[str, Tensor]) -> int:
    """Return the CRC-32 of all tensors, to tell a wrong fill from a wrong forward pass."""
    value = 0
    for tensor in state.values():
        value = zlib.crc32(tensor.numpy().tobytes(), value)
    return value


def load_published(content: object) -> tuple[Published, SegmentationNetwork]:
    """Return the network of a checkpoint's content, for images that are normalized already."""
    found = read_published(content)
    assert found is not None
    network = build(found.architecture, found.encoder, found.classes, "none", options=found.options)
    network.load_state_dict(found.weights)
    network.mean.zero_()
    network.std.fill_(1)
    return found, network.eval()


@torch.no_grad()
def differences(network: SegmentationNetwork, file: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the largest difference of each output that a file of reference outputs holds."""
    images = torch.from_numpy(np.random.default_rng(0).standard_normal(file["input_shape"]).astype(np.float32))
    features, size = network.encode(images), images.shape[-2:]

    def masked(masks: Mapping[int, str]) -> Tensor:
        maps = list(features)
        for level, name in masks.items():
            maps[level] = maps[level] * torch.from_numpy(file[name].astype(np.float32))[:, :, None, None]
        return network.resize(network.decode(maps), size)

    outputs = {
        "native": lambda: network.decode(features),
        "logits": lambda: network(images),
        "logits_fp": lambda: masked({2: "fp_mask_c1", 5: "fp_mask_c4"}),
        "logits_comp": lambda: masked(dict.fromkeys(range(1, 5), "comp_mask")),
    }
    result = {}
    for name, output in outputs.items():
        if name in file:
            stride = int(file[f"{name}_stride"])
            result[name] = float((output()[..., ::stride, ::stride] - torch.from_numpy(file[name])).abs().max())
    return result


def count(architecture: str, encoder: str, options: NetworkOptions) -> int:
    """Return the number of parameters."""
    with torch.device("meta"):
        network = build(architecture, encoder, CLASSES, "none", options=options)
    return sum(parameter.numel() for parameter in network.parameters())


def tables(folder: Path) -> Iterator[str]:
    """Yield the lines of both tables."""
    yield "| `--architecture` | `--encoder` | parameters | published | source |"
    yield "|---|---|---:|---:|---|"
    for architecture, encoder, options, millions, source in COUNTS:
        name = architecture + (" --align-corners" if options.align_corners else "")
        yield f"| `{name}` | `{encoder}` | {count(architecture, encoder, options):,} | {millions} M | {source} |"
    yield ""
    yield "| network | size | outputs | largest difference |"
    yield "|---|---|---|---:|"
    for name, entry in ENTRIES.items():
        network = load_published({entry: fill_network(folder, name)})[1]
        for path in sorted(folder.glob(f"{name}-*.npz")):
            found = differences(network, np.load(path))
            outputs = ", ".join(f"`{output}`" for output in found)
            yield f"| `{name}` | {path.stem.removeprefix(f'{name}-')} | {outputs} | {max(found.values()):.1e} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("golden", type=Path, help="folder of reference outputs")
    torch.set_num_threads(2)
    print("\n".join(tables(parser.parse_args().golden)))


if __name__ == "__main__":
    main()
