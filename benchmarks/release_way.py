"""What do the habits of research code cost? Dual Teacher's step, and the same step with each of them put back.

    python benchmarks/release_way.py [--json FILE]

The habits are those of the method's release (naver-ai/dual-teacher), rebuilt here around our step: none of its code is
used. One row a habit, one with all of them; each row's step and ours take turns, and the ratio is the median over the
turns. A step begins with fetching its batch. CutMix shifts and ClassMix shifts are timed alike often.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from step_time import TOTAL, add_settings, batches, made_loop, seconds, write_json
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from semiseg.methods import Batch, Progress, dual_teacher
from semiseg.methods.dual_teacher import DualTeacher
from semiseg.ops import pseudo_labels
from semiseg.training.trainer import Loop

Patch = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser)
    args = parser.parse_args()
    options = {"label_temperature": 0.0, "ema_reset": "shift"}  # decisions, as in the release
    with ExitStack() as stack:
        ours = Stepper(stack.enter_context(made_loop("dual-teacher", args, **options)))
        rows = []
        for habit in (*HABITS, "all of these"):
            workers = 0 if habit in ("no workers", "all of these") else args.workers
            loop = stack.enter_context(made_loop("dual-teacher", args, **options | {"workers": workers}))
            rows.append(compare(habit, ours, Stepper(loop, habit), args.rounds))
    write_json(args, rows)


class Stepper:
    """Takes one step after the other, each with a batch of its own, with the habits asked for, or under a ``patch``."""

    def __init__(self, loop: Loop, habit: str = "", patch: Patch | None = None) -> None:
        self.loop, self.step = loop, TOTAL // 2
        self.patches = [made for name, made in HABITS.items() if made and habit in (name, "all of these")]
        self.patches += [patch] if patch else []
        self.batches: Iterator[Batch] = batches(loop, TOTAL)
        loop.method.train()
        if habit in ("planar memory", "all of these"):
            loop.method.to(memory_format=torch.contiguous_format)

    def __call__(self) -> None:
        """Fetch a batch and learn from it."""
        with ExitStack() as stack:
            for patch in self.patches:
                stack.enter_context(patch())
            batch = next(self.batches)
            shift = 1000 * (self.step % 2)  # of one step each: CutMix, ClassMix, CutMix ...
            self.loop.step(batch, Progress(TOTAL // 2 + shift, 10 * TOTAL, 1000))
        self.step += 1


def compare(habit: str, ours: Stepper, theirs: Stepper, rounds: int) -> dict[str, Any]:
    """Time both in turns, print the row and return it."""
    for _ in range(2):
        ours()
        theirs()
    pairs = [(seconds(ours, ours.loop), seconds(theirs, theirs.loop)) for _ in range(rounds)]
    ratio = statistics.median(slow / quick for quick, slow in pairs)
    print(f"{habit:<40}{ratio:>6.2f}", flush=True)
    return {"habit": habit, "ratio": ratio, "step_s": statistics.median(slow for _, slow in pairs)}


def patched(name: str, make: Callable[[Any], Any], owner: Any = dual_teacher) -> Patch:
    """Return what puts ``make(the original)`` in the place of ``owner``'s ``name``."""
    return lambda: mock.patch.object(owner, name, make(getattr(owner, name)))


def labels_twice(label: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The consistency term asks the teacher again for what it has just said."""

    def twice(*args: Any) -> Tensor:
        label(*args)
        return label(*args)

    return twice


def photometric_by_pil(photometric: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Images go to the host, into PIL one by one, and back; what changes their colors is the same."""

    def one(image: Tensor) -> Tensor:
        return pil_to_tensor(to_pil_image((image.cpu() * 255).byte())).to(image.device).float() / 255

    return lambda images, *rest: photometric(torch.stack([one(image) for image in images]), *rest)


def paste_by_pil(paste: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Labels and confidences likewise, as images of 8 bits."""

    def one(values: Tensor) -> Tensor:
        scale = 255 if values.is_floating_point() else 1
        bits = pil_to_tensor(to_pil_image((values.cpu() * scale).byte()))[0]
        return (bits.to(values.device) / scale).to(values.dtype)

    def pasted(region: Tensor, above: Tensor, below: Tensor) -> Tensor:
        mixed = paste(region, above, below)
        return (
            torch.stack([one(values) for values in mixed]) if mixed.ndim == 3 and mixed.dtype != torch.bool else mixed
        )

    return pasted


def both_by_pil() -> Any:
    """Images, labels and confidences."""
    stack = ExitStack()
    stack.enter_context(patched("photometric", photometric_by_pil)())
    stack.enter_context(patched("paste", paste_by_pil, pseudo_labels)())
    return stack


def ema_by_parameter(ema_update: Any) -> Callable[..., None]:
    """One parameter after the other, each into a new tensor."""

    def update(teacher: nn.Module, student: nn.Module, decay: float, buffers: str) -> None:
        for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
            ours.data = decay * ours.data + (1 - decay) * theirs.data
        for ours, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
            ours.data = (decay * ours + (1 - decay) * theirs).to(ours.dtype)

    return update


def passes_apart(together: Callable[..., Any]) -> Callable[..., Any]:
    """The sub-models in a forward pass of their own."""

    def apart(network: nn.Module, images: Sequence[Tensor], rates: Sequence[float]) -> list[Tensor]:
        complete = network(torch.cat([*images[:2]])).split([len(batch) for batch in images[:2]])
        return [*complete, *together(network, images[2:], rates[2:])]

    return apart


def emptied_cache(step: Any) -> Callable[..., Any]:
    """GPU only: memory is given back to the driver after every step, and asked for anew."""

    def run(self: Loop, *args: Any) -> Any:
        result = step(self, *args)
        torch.cuda.empty_cache()
        return result

    return run


HABITS: dict[str, Patch | None] = {
    "each image through PIL and back": both_by_pil,
    "the teacher asked twice": patched("label", labels_twice, DualTeacher),
    "sub-models in a pass of their own": patched("forward_with_sub_models", passes_apart),
    "EMA by a loop over parameters": patched("ema_update", ema_by_parameter),
    "empty_cache after each step (GPU)": patched("step", emptied_cache, Loop),
    "planar memory": None,  # channels first: done to the network once
    "no workers": None,  # done to the loader
}


if __name__ == "__main__":
    main()
