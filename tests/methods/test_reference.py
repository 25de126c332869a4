"""Training steps of every method equal those recorded in reference.json."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from reference import CASES, STEPS, record, rounded, summarize

EXPECTED = json.loads(Path(__file__).with_name("reference.json").read_text(encoding="utf-8"))
PORTABLE = [name for name, case in CASES.items() if case.portable]
TOLERANCE = 1e-6
TOLERANCE_OF_GRADIENTS = 1e-5
"""Gradients of the last step amplify the rounding of earlier steps; CPUs differ by up to 4e-6."""


def test_every_case_is_recorded() -> None:
    assert [*EXPECTED] == PORTABLE


def marked(name: str) -> object:
    """Leave all but the default of each method out of `make test-fast`."""
    return name if name.endswith("/default") else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [marked(name) for name in PORTABLE])
def test_steps_equal_the_recorded_ones(name: str) -> None:
    values, expected = rounded(summarize(record(CASES[name]))), EXPECTED[name]
    assert values.keys() == expected.keys()
    for key, numbers in expected.items():
        scale = max(abs(number or 0) for number in numbers)  # a sum may cancel out, but not its norm
        tolerance = TOLERANCE_OF_GRADIENTS if key.startswith("gradients") else TOLERANCE
        for value, number in zip(values[key], numbers, strict=True):
            if number is None:  # a step of the burn-in has fewer scalars
                assert value is None, key
            else:
                assert math.isfinite(value), key
                assert value == pytest.approx(number, rel=tolerance, abs=tolerance * scale), key


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.chooses])
def test_some_pixels_are_trusted_and_others_not(name: str) -> None:
    shares = EXPECTED[name]["trusted_fraction"]
    assert len(shares) == STEPS
    assert any(share is not None and 0 < share < 1 for share in shares)
