"""Ranges of options, and the options that every method shares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from semiseg.option_ranges import Range, out_of_range


@dataclass(frozen=True)
class Options:
    share: Annotated[float, Range(0, 1)] = 0.5
    rate: Annotated[float, Range(0, 1, high_open=True)] = 0.5
    temperature: Annotated[float, Range(0, low_open=True)] = 1.0
    limit: Annotated[int | None, Range(1)] = None
    devices: Annotated[int | Literal["auto"], Range(1)] = "auto"
    name: str = "any"


@pytest.mark.parametrize(
    ("option", "allowed", "outside", "rule"),
    [
        ("share", (0, 0.3, 1), (-0.1, 1.1, math.nan, math.inf), "in [0, 1]"),
        ("rate", (0, 0.999), (1.0, -1e-9), "in [0, 1)"),
        ("temperature", (1e-9, 1e9), (0.0, -1.0, math.inf, math.nan), "above 0"),
        ("limit", (None, 1), (0, -1), "of at least 1"),
        ("devices", ("auto", 4), (0,), "of at least 1"),
    ],
)
def test_values_outside_a_range_are_reported(
    option: str, allowed: tuple[object, ...], outside: tuple[float, ...], rule: str
) -> None:
    for value in allowed:
        assert not list(out_of_range(Options(**{option: value})))
    for value in outside:
        assert [(name, found) for name, _, found in out_of_range(Options(**{option: value}))] == [(option, rule)]


def test_ranges_in_words() -> None:
    assert [str(Range(0)), str(Range(2)), str(Range(2, low_open=True))] == ["of at least 0", "of at least 2", "above 2"]
    assert str(Range(-(2**63), 2**63 - 1)) == f"in [{-(2**63)}, {2**63 - 1}]"
