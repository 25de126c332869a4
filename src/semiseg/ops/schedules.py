"""Schedules: functions of the step that return a weight or a factor."""


def ramp_up(step: int, start: int, length: int) -> float:
    """Return a weight in [0, 1]: 0 before ``start``, then rising linearly over ``length`` steps, then 1."""
    if step < start:
        return 0.0
    return min(1.0, (step - start + 1) / max(1, length))


def poly(step: int, total: int, power: float = 0.9, warmup: int = 0) -> float:
    """Return the factor ``(1 - t/T)^power`` on the learning rate, after a linear warm-up over ``warmup`` steps.

    The usual schedule of semantic segmentation (DeepLab), per iteration.
    """
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, 1 - (step - warmup) / max(1, total - warmup)) ** power
