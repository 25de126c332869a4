"""Record the training steps of every method, so that a change of the code can be compared with the version before it.

    python tests/methods/reference.py OUT.json             # every number, and SHA-256 sums of the exact bytes
    python tests/methods/reference.py --summary OUT.json   # the small file that the test compares with
    python tests/methods/reference.py --compare A.json B.json

Hashes are comparable on one machine only: other CPUs round differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import struct
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semiseg.methods import METHODS, VARIANTS, Batch, Progress

STEPS, TOTAL_STEPS, STEPS_PER_EPOCH = 4, 16, 2
CLASSES = 3
LOW = {"threshold": -1.0}
"""Marks the threshold of ``THRESHOLDS``, which the toy network exceeds on some pixels and not on others."""
THRESHOLDS = {"pseudoseg": 0.385, "fixmatch": 0.5, "unimatch": 0.5, "unimatch-v2": 0.37, "augseg": 0.4}
TRAIN_MODE_THRESHOLD, OTHER_THRESHOLD = 0.5, 0.385


@dataclass(frozen=True)
class Case:
    """One method under one set of options, on one kind of batch.

    Attributes:
        method: A key of ``METHODS``.
        options: The options that differ from the defaults.
        batch: The name of a function in ``BATCHES``.
        classes: Number of classes.
        optimizer: ``sgd`` or ``adamw``.
        seed: Added to the seed of each step's batch.
        supervised_loss: ``ce`` or ``ohem``.
        weighted: Whether the labeled loss weights the classes.
        micro_batches: Number of micro-batches per global batch.
        teacher_dtype: The dtype of the teacher's forward pass, None for that of the step.
        autocast: Whether the whole step runs under autocast to bfloat16.
        portable: Whether the committed summary contains the case. bfloat16 rounds too coarsely to compare machines.
            Other cases are left out to keep the test fast.
        chooses: Whether some pixels, but not all, must be trusted in at least one step.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: str = "plain"
    classes: int = CLASSES
    optimizer: str = "sgd"
    seed: int = 0
    supervised_loss: str = "ce"
    weighted: bool = False
    micro_batches: int = 1
    teacher_dtype: torch.dtype | None = None
    autocast: bool = False
    portable: bool = True
    chooses: bool = False


# Batches.


def plain(classes: int, step: int) -> Batch:
    """Return two labeled and two unlabeled images."""
    from toy import make_batch

    return make_batch(classes, seed=step)


def padded(classes: int, step: int) -> Batch:
    """Return a batch with padding at different borders, one unlabeled image of padding only, and ignored pixels."""
    batch = plain(classes, step)
    batch.labeled_valid[0, :, -5:] = False
    batch.unlabeled_valid[0, :6] = False
    batch.unlabeled_valid[1] = step % 2 == 0
    batch.unlabeled_valid[1, :, :3] = False
    batch.masks[~batch.labeled_valid] = 255
    batch.masks[1, 2:5] = 255
    return batch


def partially_annotated(classes: int, step: int) -> Batch:
    """Return a batch whose labeled images are annotated on the right half only, with a padded row."""
    batch = plain(classes, step)
    masks, valid = batch.masks.clone(), batch.labeled_valid.clone()
    masks[..., :8] = 255
    masks[:, 0], valid[:, 0] = 255, False
    return replace(batch, masks=masks, labeled_valid=valid, fill=(masks == 255) & valid)


def tagged(classes: int, step: int) -> Batch:
    """Return a batch with tags of all three kinds, whose views show two thirds of their images."""
    batch = plain(classes, step)
    tags = [(torch.arange(2)[:, None] + torch.arange(classes) * 2 + step + shift) % 3 - 1 for shift in (0, 1)]
    area = torch.full((2,), 16 * 16 * 3 // 2)
    return replace(
        batch,
        labeled_tags=tags[0].to(torch.int8),
        unlabeled_tags=tags[1].to(torch.int8),
        labeled_area=area,
        unlabeled_area=area,
    )


def partial_and_tagged(classes: int, step: int) -> Batch:
    """Return a partially annotated batch with tags."""
    tags = tagged(classes, step)
    names = ("labeled_tags", "unlabeled_tags", "labeled_area", "unlabeled_area")
    return replace(partially_annotated(classes, step), **{name: getattr(tags, name) for name in names})


def single(classes: int, step: int) -> Batch:
    """Return one labeled and one unlabeled image."""
    from toy import make_batch

    return make_batch(classes, labeled=1, unlabeled=1, seed=step)


def odd(classes: int, step: int) -> Batch:
    """Return three labeled and five unlabeled images of 13x15 pixels, some of them padding."""
    from toy import make_batch

    batch = make_batch(classes, labeled=3, unlabeled=5, seed=step)
    cut = {name: getattr(batch, name)[..., :13, 1:] for name in ("labeled_images", "masks", "labeled_valid")}
    cut |= {name: getattr(batch, name)[..., :13, 1:] for name in ("unlabeled_images", "unlabeled_valid")}
    cut["unlabeled_valid"] = cut["unlabeled_valid"].clone()
    cut["unlabeled_valid"][2, :, :4] = False
    return Batch(**cut)


BATCHES: dict[str, Callable[[int, int], Batch]] = {
    "plain": plain,
    "padded": padded,
    "partial": partially_annotated,
    "tagged": tagged,
    "partial-tagged": partial_and_tagged,
    "single": single,
    "odd": odd,
}


# Cases.

# Added to every method that has all of these options.
BRANCHES: dict[str, dict[str, Any]] = {
    "low": LOW,
    "image": LOW | {"threshold_mode": "image"},
    "batch": LOW | {"threshold_mode": "batch"},
    "none": {"threshold_mode": "none"},
    "soft": {"label_temperature": 0.5},
    "probabilities": {"label_temperature": 1.0},
    "burn-in": {"burn_in": 0.125, "ramp_up": 0.25},
    "ramp-up": {"ramp_up": 0.25},
    "weight": {"unsupervised_weight": 0.7},
    "colors": LOW | {"color_strength": 1.0},
    "buffers-copy": {"ema_buffers": "copy"},
    "buffers-own": {"ema_buffers": "own", "teacher_mode": "train"},
    "teacher-train": LOW | {"teacher_mode": "train"},
    "decay": {"ema_decay": 0.3},
}
# Added to one method.
SPECIAL: dict[str, dict[str, dict[str, Any]]] = {
    "mean-teacher": {
        "classmix": LOW | {"mixing": "classmix"},
        "mse": LOW | {"unsupervised_loss": "mse", "label_temperature": 1.0},
    },
    "dual-student": {"no-cutmix": {"cutmix": False}, "no-cutmix-soft": {"cutmix": False, "label_temperature": 0.5}},
    "dual-teacher": {
        "consistency-all": LOW | {"consistency_on": "all"},
        "no-consistency": LOW | {"consistency_weight": 0.0},
        "drop-path": LOW | {"drop_path": 0.6, "consistency_weight": 1.0},
        "never-reset": LOW | {"ema_reset": "never", "ema_decay": 0.6},
        "never-reset-burn-in": LOW | {"ema_reset": "never", "burn_in": 0.0625},
        "one-teacher": LOW | {"teachers": 1, "ema_reset": "never"},
        "three-teachers": LOW | {"teachers": 3, "shift_steps": 1},
        "long-shift": LOW | {"shift_steps": 3},
        "classmix-only": LOW | {"pool": ("classmix",)},
    },
    "pseudoseg": {
        "threshold": LOW,
        "decisions": LOW | {"label_temperature": 0.0},
        "background": {"background": 0},
        "known-share": {"known_share": 0.0},
        "no-cutout": {"cutout": 0.0},
        "small-attention": {"attention_side": 5, "attention_channels": 8},
    },
    "pc2seg": {
        "no-contrast": {"contrast_weight": 0.0},
        "biased": {"debias": False},
        "few": {"anchors": 20, "negatives": 30, "projection": 8, "contrast_temperature": 0.5},
        "contrast": {"contrast_weight": 1.0},
    },
    "augseg": {
        "no-colors": LOW | {"intensity_changes": 0},
        "no-injection": LOW | {"label_injection": False},
    },
    "unimatch": {
        "no-features": LOW | {"feature_weight": 0.0},
        "no-dropout": LOW | {"feature_dropout": 0.0},
    },
    "unimatch-v2": {"halves": LOW | {"whole_pairs": 0.0}, "whole": LOW | {"whole_pairs": 1.0}},
    "gentle-teaching-assistant": {
        "shared": {"share_classifier": True},
        "all-pixels": {"drop_percent": 0.0},
        "half-the-pixels": {"drop_percent": 50.0, "representation_decay": 0.5},
    },
    "u2pl": {
        "no-contrast": {"contrast_weight": 0.0},
        "low-rank": {"low_rank": 1, "anchor_threshold": 0.0},
        "few": {"anchors": 20, "negatives": 5, "projection": 8, "bank_size": 30, "contrast_temperature": 0.1},
    },
}
# With seed 0, these have a pixel so close to a threshold that instruction sets disagree on it.
SEEDS = {
    "mean-teacher/odd": 100,
    "dual-teacher/partial": 100,
    "pseudoseg/background": 200,
    "pseudoseg/micro-batches": 100,
    "pc2seg/ohem": 100,
    "augseg/batch": 100,
    "augseg/soft": 100,
    "fixmatch/colors": 100,
    "fixmatch/soft": 100,
    "unimatch/default": 100,
    "gentle-teaching-assistant/weight": 100,
}


def make_cases() -> dict[str, Case]:
    """Return every case by its name, ``METHOD/BRANCH``."""
    cases: dict[str, Case] = {}
    for method in METHODS:
        known = {option.name for option in fields(METHODS[method].Options)}
        easy = {key: value for key, value in LOW.items() if key in known}
        cases[f"{method}/default"] = Case(method, optimizer="adamw")
        for name, options in BRANCHES.items():
            if options.keys() <= known:
                chooses = "threshold" in options
                portable = name not in {"weight", "ramp-up"}
                cases[f"{method}/{name}"] = Case(method, easy | options, chooses=chooses, portable=portable)
        for name, options in SPECIAL.get(method, {}).items():
            cases[f"{method}/{name}"] = Case(method, options, chooses="threshold" in options)
        for batch in BATCHES:
            if ("partial" in batch and "fill_weight" not in known) or ("tagged" in batch and "tag_weight" not in known):
                continue
            if batch != "plain":
                optimizer = "adamw" if batch == "odd" else "sgd"
                cases[f"{method}/{batch}"] = Case(method, easy, batch, optimizer=optimizer)
        if "fill_weight" in known:
            soft = easy | {"threshold_mode": "image", "label_temperature": 0.5, "ramp_up": 0.25}
            cases[f"{method}/partial-soft"] = Case(method, soft, "partial-tagged")
        if "consistency_on" in known:
            cases[f"{method}/all-tagged"] = Case(method, easy | {"consistency_on": "all"}, "partial-tagged")
            cases[f"{method}/all-padded"] = Case(method, easy | {"consistency_on": "all"}, "padded")
        cases[f"{method}/ohem"] = Case(method, easy, "padded", supervised_loss="ohem")
        cases[f"{method}/class-weights"] = Case(method, easy, weighted=True)
        cases[f"{method}/one-class"] = Case(method, easy, classes=1, portable=False)
        cases[f"{method}/many-classes"] = Case(method, classes=21, portable=False)
        cases[f"{method}/micro-batches"] = Case(method, easy, micro_batches=2)
        cases[f"{method}/autocast"] = Case(method, easy, "padded", autocast=True, portable=False)
        if method != "supervised":
            cases[f"{method}/bf16"] = Case(method, easy, teacher_dtype=torch.bfloat16, portable=False)
    for variant, (method, options) in VARIANTS.items():
        cases[f"{variant}/default"] = Case(method, options, optimizer="adamw")
        cases[f"{variant}/low"] = Case(method, {**options, **LOW}, chooses=True)
        cases[f"{variant}/padded"] = Case(method, {**options, **LOW}, "padded")
        cases[f"{variant}/micro-batches"] = Case(method, {**options, **LOW}, micro_batches=2)
    return {name: finished(name, case) for name, case in cases.items()}


def finished(name: str, case: Case) -> Case:
    """Return the case with its threshold and its seed filled in."""
    options = dict(case.options)
    if options.get("threshold") == LOW["threshold"]:
        in_train_mode = options.get("teacher_mode") == "train"
        options["threshold"] = TRAIN_MODE_THRESHOLD if in_train_mode else THRESHOLDS.get(case.method, OTHER_THRESHOLD)
    return replace(case, options=options, seed=SEEDS.get(name, 0))


CASES = make_cases()


# Steps.


@contextmanager
def shard(index: int, count: int, images: int, step: int) -> Iterator[None]:
    """Process shard ``index`` of ``count`` of a global batch inside the block."""
    from semiseg.ops.global_batch import Shard, use_shard

    with use_shard(Shard(index, count, images, 1, torch.Generator().manual_seed(5000 + step))):
        yield


def make_ohem() -> Callable[..., Tensor]:
    """Return the loss on hard pixels, for a batch of toy images."""
    from semiseg.ops.losses import ohem_cross_entropy

    return partial(ohem_cross_entropy, threshold=0.3, min_kept=150)


@dataclass
class Recorded:
    """Exact numbers of one case.

    Attributes:
        steps: For each step, the loss and every scalar.
        gradients: Those of the last step, by parameter; parameters without a gradient are left out.
        state: The state dict after the last step.
    """

    steps: list[dict[str, float]]
    gradients: dict[str, Tensor]
    state: dict[str, Tensor]


def record(case: Case) -> Recorded:
    """Train ``STEPS`` steps on the toy network, on one CPU thread."""
    from toy import make

    torch.set_num_threads(1)
    method = make(case.method, case.classes, **case.options)
    method.teacher_dtype = case.teacher_dtype
    if case.supervised_loss == "ohem":
        method.supervised_loss = make_ohem()
    if case.weighted:
        method.class_weights.copy_(torch.linspace(0.5, 1.5, case.classes))
    learning = [p for p in method.parameters() if p.requires_grad]
    # A gradient that is 0 but for rounding must not become a full step of AdamW, hence its large eps.
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(learning, lr=0.01, eps=1e-3)
    if case.optimizer == "sgd":
        optimizer = torch.optim.SGD(learning, lr=0.05, momentum=0.9)
    steps, gradients = [], {}
    for step in range(STEPS):
        progress = Progress(step, TOTAL_STEPS, STEPS_PER_EPOCH)
        batch = BATCHES[case.batch](case.classes, case.seed + step)
        if case.micro_batches == 1:
            torch.manual_seed(1000 + step)
            with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
                output = method(batch, progress)
            output.loss.backward()
            steps.append({"loss": float(output.loss.detach())} | numbers(output.scalars))
        else:
            steps.append({})
            for index, micro_batch in enumerate(batch.split(case.micro_batches)):
                torch.manual_seed(1000 + 100 * index + step)
                with shard(index, case.micro_batches, len(micro_batch.labeled_images), step):
                    output = method(micro_batch, progress)
                    (output.loss / case.micro_batches).backward()
                values = {"loss": float(output.loss.detach())} | numbers(output.scalars)
                steps[-1] |= {f"{name}@{index}": value for name, value in values.items()}
        gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(progress)
    return Recorded(steps, gradients, method.state_dict())


def numbers(scalars: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Return scalars as numbers, sorted by name."""
    return {name: float(scalars[name]) for name in sorted(scalars)}


# Output.


def hashes(recorded: Recorded) -> dict[str, str]:
    """Return a SHA-256 over everything, and one each over losses, scalars, gradients and state."""
    parts = {
        "losses": [pack(value) for step in recorded.steps for name, value in step.items() if name.startswith("loss@")]
        + [pack(step["loss"]) for step in recorded.steps if "loss" in step],
        "scalars": [pack(step[name]) for step in recorded.steps for name in sorted(step)],
        "gradients": [content(recorded.gradients[name]) for name in sorted(recorded.gradients)],
        "state": [content(recorded.state[name]) for name in sorted(recorded.state)],
    }
    joined = {name: b"".join(values) for name, values in parts.items()}
    sums = {name: hashlib.sha256(value).hexdigest() for name, value in joined.items()}
    return {"all": hashlib.sha256(b"".join(joined.values())).hexdigest()} | sums


def pack(value: float) -> bytes:
    """Return the eight bytes of a float; a float32 value keeps its bits."""
    return struct.pack("<d", value)


def content(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor."""
    return tensor.detach().contiguous().numpy().tobytes()


def measure(tensors: Mapping[str, Tensor]) -> list[float]:
    """Return L2 norm and sum, over all elements of all tensors."""
    flat = torch.cat([t.detach().flatten().double() for t in tensors.values()]) if tensors else torch.zeros(1)
    return [float(flat.norm()), float(flat.sum())]


def by_network(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Group tensors by the first part of their names: ``student``, ``teacher``, ``teachers.0``, ..."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name in sorted(tensors):
        first, second, *_ = [*name.split("."), ""]
        groups.setdefault(f"{first}.{second}" if second.isdigit() else first, {})[name] = tensors[name]
    return groups


def in_full(recorded: Recorded) -> dict[str, Any]:
    """Return every number of a case, norm and sum of each tensor, and hashes."""
    tensors = {"gradients": recorded.gradients, "state": recorded.state}
    measured = {kind: {name: measure({name: of[name]}) for name in sorted(of)} for kind, of in tensors.items()}
    return {"steps": recorded.steps, **measured, "sha256": hashes(recorded)}


def summarize(recorded: Recorded) -> dict[str, Any]:
    """Return the numbers of a case that the test compares: by step, and norm and sum of each network's tensors.

    The keys ``gradients NETWORK`` and ``state NETWORK`` hold norm and sum; every other key holds one number a step.
    """
    names = sorted({name for step in recorded.steps for name in step})
    series = {name: [step.get(name) for step in recorded.steps] for name in names}
    tensors = {"gradients": recorded.gradients, "state": recorded.state}
    return series | {
        f"{kind} {network}": measure(group)
        for kind, of in tensors.items()
        for network, group in by_network(of).items()
        if network != "class_weights"
    }


def rounded(value: Any) -> Any:
    """Return a summary with every number at eight significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


def difference(a: Any, b: Any) -> float:
    """Return the largest relative difference of two results; infinity where their structure differs."""
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return math.inf
        return max((difference(a[key], b[key]) for key in a if key != "sha256"), default=0.0)
    if isinstance(a, list) and isinstance(b, list):
        return max(map(difference, a, b), default=0.0) if len(a) == len(b) else math.inf
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return abs(a - b) / max(abs(a), abs(b), 1e-12)
    return 0.0 if a == b else math.inf


def compare(first: Path, second: Path) -> int:
    """Print a table of all cases; return 1 if any case differs, else 0."""
    a, b = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
    changed = 0
    for name in [*a, *(name for name in b if name not in a)]:
        if name not in a or name not in b:
            result = f"missing in {first if name not in a else second}"
        elif a[name]["sha256"]["all"] == b[name]["sha256"]["all"]:
            result = "bit-identical"
        else:
            sums = (a[name]["sha256"], b[name]["sha256"])
            parts = [kind for kind in sums[0] if kind != "all" and sums[0][kind] != sums[1].get(kind)]
            result = f"{difference(a[name], b[name]):.3g} ({', '.join(parts)})"
        changed += result != "bit-identical"
        print(f"{name:48} | {result}")
    print(f"{changed} of {len(a.keys() | b.keys())} cases differ")
    return int(changed > 0)


def write_summary(path: Path) -> None:
    """Write the summaries of all portable cases, one line a case."""
    lines = [
        f"{json.dumps(name)}:{json.dumps(rounded(summarize(record(case))), separators=(',', ':'))}"
        for name, case in CASES.items()
        if case.portable
    ]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summary", action="store_true", help="write the small file that the test compares with")
    parser.add_argument("--compare", action="store_true", help="compare two files with hashes")
    parser.add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.compare:
        return compare(*arguments.files)
    (out,) = arguments.files
    if arguments.summary:
        write_summary(out)
    else:
        results = {name: in_full(record(case)) for name, case in CASES.items()}
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1]))  # for toy.py; pytest has it from pyproject.toml
    sys.exit(main())
