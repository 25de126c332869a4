"""Make the plan of a run from the fingerprint of its data, its device and a time budget."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from semiseg.data.splits.hold_out import FEW_VAL
from semiseg.errors import UserError
from semiseg.tools.planning.device_facts import Device
from semiseg.tools.planning.fingerprint import Fingerprint
from semiseg.tools.planning.planner import LENGTHS, Line, Plan, Planner
from semiseg.tools.planning.settings_table import (
    BUDGET_S,
    LABELED_PER_BATCH,
    LONG_STEPS,
    MIN_VAL_LIMIT,
    SAFEGUARD,
    SMALLEST_CLASS,
    SPARE_SHARE,
    TIERS,
    USEFUL_STEPS,
    VALIDATION_SHARE,
    VALIDATIONS,
    Tier,
    length_settings,
)
from semiseg.tools.planning.trial_steps import Speed, StepTimer

NETWORK = ("architecture", "encoder", "weights", "init", "bands")


def make_plan(
    given: Mapping[str, Any], data: Fingerprint, device: Device, time_s: float | None, timer: StepTimer
) -> Plan:
    """Plan a run.

    Args:
        given: The given options, which win.
        data: The fingerprint of the data.
        device: The device.
        time_s: The time budget in seconds. Default: that of the device.
        timer: Measures the steps; not called if ``given`` has ``steps`` or ``epochs``.

    Raises:
        UserError: An option is invalid, or not even one image of each kind fits into the memory.
    """
    planner = Planner(given, data, device)
    tier = next(tier for tier in TIERS if _fits(tier, device, given))
    _add_views(planner, tier)
    for setting in tier.settings:
        planner.add(setting.values, setting.reason)
    planner.add(_workers(device), "loads the next batches while the device trains")
    if planner.uses_unlabeled:
        planner.add(SAFEGUARD.values, SAFEGUARD.reason)
    speed, budget = None, None
    if length := given_steps(given, planner):
        planner.overridden |= {name: given[name] for name in LENGTHS if given.get(name)}
        _add_length_settings(planner, length)
        planner.add(*_validations(length))
    else:
        budget = BUDGET_S[device.kind] if time_s is None else time_s
        speed = _time(planner, timer)
        _add_steps(planner, tier, speed, budget)
    _add_notes(planner)
    parts = tuple(planner.lines), planner.overridden, tuple(planner.notes)
    return Plan(data, device, tier.name, budget, speed, *parts)


def given_steps(given: Mapping[str, Any], planner: Planner) -> int:
    """Return the given number of steps, or that of the given epochs; 0 if neither is given."""
    if given.get("steps"):
        return int(given["steps"])
    if not given.get("epochs"):
        return 0
    images = planner.data.unlabeled if planner.uses_unlabeled else planner.data.labeled
    batch = planner.value("batch_size")
    return int(given["epochs"]) * math.ceil(images / (8 if batch == "auto" else batch))


def _fits(tier: Tier, device: Device, given: Mapping[str, Any]) -> bool:
    own_network = any(name in given for name in NETWORK)
    enough = device.kind in tier.kinds and device.gpu_gb >= tier.gpu_gb
    return enough and not (tier.hub and (own_network or not device.hub))


def _add_views(planner: Planner, tier: Tier) -> None:
    """Add image scale, crop and batch size."""
    data, side = planner.data, planner.data.short_side
    crop = int(planner.given.get("crop_size", tier.crop_size))
    if resized := planner.given.get("short_side"):
        side = int(resized)
    else:
        scale, why = image_scale(side, crop, data.rarest)
        planner.add({"image_scale": scale}, why)
    scaled = int(side * float(planner.value("image_scale")))
    fitting = max(32, min(tier.crop_size, scaled // tier.crop_multiple * tier.crop_multiple))
    reason = tier.reason
    if fitting < tier.crop_size:
        reason = f"the shorter side of the images has {scaled} pixels"
    planner.add({"crop_size": fitting}, reason)
    unit = planner.device.count * int(planner.given.get("accumulate", 1))  # a batch divides into as many parts
    batch = min(tier.batch_size, max(LABELED_PER_BATCH, data.labeled)) * planner.device.count
    batch = math.ceil(batch / unit) * unit
    also = " and as many unlabeled ones" if planner.uses_unlabeled else ""
    planner.add({"batch_size": batch}, f"{batch} labeled images{also} per step")


def image_scale(side: int, crop: int, rarest: float) -> tuple[float, str]:
    """Return the scale of the images and the reason.

    Images are halved as long as the shorter side stays at least as long as the crop, so that a crop shows most of an
    image, and as long as the rarest class still covers `SMALLEST_CLASS` pixels where it occurs.
    """
    halvings = 0
    while side / 2 ** (halvings + 1) >= crop:
        if rarest and rarest / 4 ** (halvings + 1) < SMALLEST_CLASS:
            small = f"the smallest class has {rarest:.0f} pixels where it occurs and would vanish in smaller images"
            return 1 / 2**halvings, small
        halvings += 1
    if not halvings:
        return 1.0, "a crop shows most of an image"
    return 1 / 2**halvings, f"images with a shorter side of {side // 2**halvings}: a crop shows most of one"


def _workers(device: Device) -> dict[str, Any]:
    return {"workers": max(1, min(2 if device.kind == "cpu" else 8, device.cores - 1))}


def _time(planner: Planner, timer: StepTimer) -> Speed:
    """Time steps with the planned settings, with smaller batches if the memory does not suffice."""
    if planner.value("batch_size") == "auto":
        problem = "auto needs a number of steps, since a plan times steps of a known batch"
        raise UserError(
            problem, option="batch-size", fix="pass --steps, or leave it out: the plan chooses one that fits"
        )
    trial = length_settings(planner.method, LONG_STEPS)  # has a burn-in, as every plan
    lines = list(planner.lines)
    while True:
        for setting in trial:
            planner.add(setting.values, setting.reason)
        speed = timer(*planner.resolve(), planner.device.cores)
        planner.lines = list(lines)
        if speed is not None:
            return speed
        batch = planner.value("batch_size")
        unit = planner.device.count * int(planner.given.get("accumulate", 1))
        if "batch_size" in planner.given or batch <= unit:
            raise UserError("a step does not fit into the memory", option="batch-size", fix="lower it or --crop-size")
        smaller = batch // unit // 2 * unit
        reason = f"{batch} do not fit into the memory"
        lines = [Line({"batch_size": smaller}, reason) if "batch_size" in line.values else line for line in lines]
        planner.lines = list(lines)


def _add_steps(planner: Planner, tier: Tier, speed: Speed, budget: float) -> None:
    """Add the number of steps for the time budget, what depends on it, and the validations."""
    all_images = planner.data.val
    affordable = int(VALIDATION_SHARE * budget / (VALIDATIONS * max(speed.image_s, 1e-6)))
    images = planner.given.get("val_limit") or min(all_images, max(MIN_VAL_LIMIT, affordable))
    left = max(0.0, (1 - SPARE_SHARE) * budget - VALIDATIONS * images * speed.image_s)
    for least in (LONG_STEPS, 1):  # long runs have a shorter burn-in and therefore fewer steps
        share = _burn_in_share(planner, least)
        steps = _rounded(left / (share * speed.burn_in_s + (1 - share) * speed.step_s), tier.max_steps)
        if steps >= least:
            break
    fitting = f"{budget / 60:.3g} minutes at {speed.step_s:.2g} s per step"
    planner.add({"steps": steps}, fitting if steps < tier.max_steps else "the most that a plan takes")
    _add_length_settings(planner, steps)
    planner.add(*_validations(steps))
    if images < all_images:
        planner.add({"val_limit": images}, f"more val images would take over {VALIDATION_SHARE:.0%} of the time")
    if steps < USEFUL_STEPS:
        minutes = math.ceil(LONG_STEPS * speed.step_s / (1 - SPARE_SHARE) / 60)
        few = f"{steps} step{'s' * (steps != 1)} are few: mIoU usually rises up to about {LONG_STEPS} steps"
        planner.notes.append(f"warning: {few}, which take --time {minutes}m here")


def _validations(steps: int) -> tuple[dict[str, int], str]:
    """Return the validation interval and the reason."""
    interval = math.ceil(steps / VALIDATIONS)
    count = math.ceil(steps / interval)
    return {"val_every": interval}, f"{count} validation{'s' * (count != 1)}"


def _burn_in_share(planner: Planner, steps: int) -> float:
    if not planner.uses_unlabeled:
        return 0.0
    planned = {k: v for s in length_settings(planner.method, steps) for k, v in s.values.items()}
    return float(planner.given.get("burn_in", planned.get("burn_in", 0.0)))


def _add_length_settings(planner: Planner, steps: int) -> None:
    if planner.uses_unlabeled:
        for setting in length_settings(planner.method, steps):
            planner.add(setting.values, setting.reason)


def _rounded(steps: float, limit: int) -> int:
    """Return the number of steps with two significant digits, in [1, limit]."""
    if steps < 10:
        return max(1, int(steps))
    unit = 10 ** (int(math.log10(steps)) - 1)
    return min(limit, int(steps) // unit * unit)


def _add_notes(planner: Planner) -> None:
    data = planner.data
    if data.held_out:
        shown = ", ".join(data.held_out[:3]) + (", ..." if len(data.held_out) > 3 else "")
        total = data.labeled + data.val
        planner.notes.insert(0, f"no val list: {data.val} of {total} labeled images are held out ({shown})")
    if 0 < data.val < FEW_VAL:
        few = f"only {data.val} val image{'s' * (data.val != 1)}: differences of a few points of mIoU are chance"
        planner.notes.append(f"warning: {few}. Annotate more, or name more of the masks in splits/val.txt")
