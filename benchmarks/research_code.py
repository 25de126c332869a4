"""Costs of habits of research code: Dual Teacher's step with each habit over our step.

    python benchmarks/research_code.py [--json FILE]

The habits are those of the method's release (naver-ai/dual-teacher), reimplemented around our step; none of its code is
used. One row per habit, and one with all of them. Both steps alternate, and the ratio is the median. A step includes
loading its batch. Half of the steps use CutMix, half ClassMix.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from step_time import TOTAL, add_settings, batches, make_trainer, seconds, write_json
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from semiseg.methods import Batch, Progress, dual_teacher
from semiseg.methods.dual_teacher import DualTeacher
from semiseg.ops import pseudo_labels
from semiseg.training.trainer import Trainer

Patch = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser)
    args = parser.parse_args()
    options = {"label_temperature": 0.0, "ema_reset": "shift"}  # hard labels, as in the authors' code
    with ExitStack() as stack:
        ours = Stepper(stack.enter_context(make_trainer("dual-teacher", args, **options)))
        rows = []
        for habit in (*HABITS, "all of these"):
            workers = 0 if habit in ("no workers", "all of these") else args.workers
            trainer = stack.enter_context(make_trainer("dual-teacher", args, **options | {"workers": workers}))
            rows.append(compare(habit, ours, Stepper(trainer, habit), args.rounds))
    write_json(args, rows)


class Stepper:
    """Takes steps on successive batches with one habit, all habits, or a ``patch``."""

    def __init__(self, trainer: Trainer, habit: str = "", patch: Patch | None = None) -> None:
        self.trainer, self.step = trainer, TOTAL // 2
        self.patches = [made for name, made in HABITS.items() if made and habit in (name, "all of these")]
        self.patches += [patch] if patch else []
        self.batches: Iterator[Batch] = batches(trainer, TOTAL)
        trainer.method.train()
        if habit in ("channels first", "all of these"):
            trainer.method.to(memory_format=torch.contiguous_format)

    def __call__(self) -> None:
        """Load a batch and take a step."""
        with ExitStack() as stack:
            for patch in self.patches:
                stack.enter_context(patch())
            batch = next(self.batches)
            shift = 1000 * (self.step % 2)  # alternate between CutMix and ClassMix
            self.trainer.step(batch, Progress(TOTAL // 2 + shift, 10 * TOTAL, 1000))
        self.step += 1


def compare(habit: str, ours: Stepper, theirs: Stepper, rounds: int) -> dict[str, Any]:
    """Time both steps alternately, print the row and return it."""
    for _ in range(2):
        ours()
        theirs()
    pairs = [(seconds(ours, ours.trainer), seconds(theirs, theirs.trainer)) for _ in range(rounds)]
    ratio = statistics.median(slow / quick for quick, slow in pairs)
    print(f"{habit:<40}{ratio:>6.2f}", flush=True)
    return {"habit": habit, "ratio": ratio, "step_s": statistics.median(slow for _, slow in pairs)}


def patched(name: str, make: Callable[[Any], Any], owner: Any = dual_teacher) -> Patch:
    """Return a patch that replaces attribute ``name`` of ``owner`` by ``make(original)``."""
    return lambda: mock.patch.object(owner, name, make(getattr(owner, name)))


def labels_twice(label: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Repeat the teacher's forward pass for the consistency term."""

    def twice(*args: Any) -> Tensor:
        label(*args)
        return label(*args)

    return twice


def photometric_by_pil(photometric: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Move every image to the host, convert it to PIL and back; the color transforms are the same."""

    def one(image: Tensor) -> Tensor:
        return pil_to_tensor(to_pil_image((image.cpu() * 255).byte())).to(image.device).float() / 255

    return lambda images, *rest: photometric(torch.stack([one(image) for image in images]), *rest)


def paste_by_pil(paste: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Do the same with labels and confidences, as 8-bit images."""

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
    """Apply both PIL round trips."""
    stack = ExitStack()
    stack.enter_context(patched("change_colors", photometric_by_pil)())
    stack.enter_context(patched("paste", paste_by_pil, pseudo_labels)())
    return stack


def ema_by_parameter(ema_update: Any) -> Callable[..., None]:
    """Update one parameter after the other, each into a new tensor."""

    def update(teacher: nn.Module, student: nn.Module, decay: float, buffers: str) -> None:
        for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
            ours.data = decay * ours.data + (1 - decay) * theirs.data
        for ours, theirs in zip(teacher.buffers(), student.buffers(), strict=True):
            ours.data = (decay * ours + (1 - decay) * theirs).to(ours.dtype)

    return update


def passes_apart(together: Callable[..., Any]) -> Callable[..., Any]:
    """Use a separate forward pass for the sub-models."""

    def apart(network: nn.Module, images: Sequence[Tensor], rates: Sequence[float]) -> list[Tensor]:
        complete = network(torch.cat([*images[:2]])).split([len(batch) for batch in images[:2]])
        return [*complete, *together(network, images[2:], rates[2:])]

    return apart


def emptied_cache(step: Any) -> Callable[..., Any]:
    """Free cached GPU memory after every step."""

    def run(self: Trainer, *args: Any) -> Any:
        result = step(self, *args)
        torch.cuda.empty_cache()
        return result

    return run


HABITS: dict[str, Patch | None] = {
    "each image through PIL and back": both_by_pil,
    "two teacher passes": patched("label", labels_twice, DualTeacher),
    "separate pass for sub-models": patched("forward_with_sub_models", passes_apart),
    "EMA in a loop over parameters": patched("ema_update", ema_by_parameter),
    "empty_cache after each step (GPU)": patched("step", emptied_cache, Trainer),
    "channels first": None,  # applied to the networks once
    "no workers": None,  # applied to the loader
}


if __name__ == "__main__":
    main()
