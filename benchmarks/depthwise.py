"""Time of the backward pass of depthwise convolutions: PyTorch and networks/depthwise.py.

    python benchmarks/depthwise.py [--json FILE]

One thread, fp32, channels last. Prints the minimum of ten runs in milliseconds, and the ratio.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from semiseg.networks.fast_layers import use_fast_layers

CASES = ((240, 5, 1, 16), (672, 5, 1, 8), (1152, 5, 2, 8), (1152, 3, 2, 8), (320, 3, 6, 8), (320, 3, 12, 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| channels | kernel | dilation | size | PyTorch ms | here ms | ratio |\n|---|---|---|---|---|---|---|")
    rows = []
    for channels, kernel, dilation, size in CASES:
        x = torch.randn(18, channels, size, size).to(memory_format=torch.channels_last).requires_grad_()
        convolution = nn.Conv2d(
            channels, channels, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=channels, bias=False
        ).to(memory_format=torch.channels_last)
        theirs, ours = (backward_ms(convolution, x, change) for change in (lambda _: None, use_fast_layers))
        case = {"channels": channels, "kernel": kernel, "dilation": dilation, "size": size}
        rows.append(case | {"pytorch_ms": theirs, "here_ms": ours, "ratio": theirs / ours})
        print(f"| {channels} | {kernel} | {dilation} | {size} | {theirs:.1f} | {ours:.1f} | {theirs / ours:.1f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def backward_ms(convolution: nn.Module, x: torch.Tensor, change: Callable[[nn.Module], object]) -> float:
    """Return the minimum time of ten backward passes after ``change`` was applied to the convolution."""
    change(convolution)
    times = []
    for _ in range(10):
        loss = convolution(x).square().sum()
        start = time.perf_counter()
        loss.backward()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


if __name__ == "__main__":
    main()
