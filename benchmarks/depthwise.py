"""Times the backward pass of dilated depthwise convolutions: PyTorch's, and that of networks/depthwise.py.

    python benchmarks/depthwise.py

One thread, fp32, channels last; the smallest of ten times each, in milliseconds, and the ratio.
"""

import time

import torch
from torch import nn

from semiseg.networks.depthwise import quicken_dilated_depthwise

torch.set_num_threads(1)
print("| channels | kernel | dilation | size | PyTorch ms | here ms | ratio |\n|---|---|---|---|---|---|---|")
for channels, kernel, dilation, size in ((1152, 5, 2, 8), (1152, 3, 2, 8), (320, 3, 6, 8), (320, 3, 12, 8)):
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(
        channels, channels, kernel, padding=padding, dilation=dilation, groups=channels, bias=False
    ).to(memory_format=torch.channels_last)
    x = torch.randn(18, channels, size, size).to(memory_format=torch.channels_last).requires_grad_()
    times = []
    for change in (lambda module: None, quicken_dilated_depthwise):
        change(convolution)
        seconds = []
        for _ in range(10):
            loss = convolution(x).square().sum()
            start = time.perf_counter()
            loss.backward()
            seconds.append(time.perf_counter() - start)
        times.append(1000 * min(seconds))
    print(
        f"| {channels} | {kernel} | {dilation} | {size} | {times[0]:.1f} | {times[1]:.1f} | {times[0] / times[1]:.1f} |"
    )
