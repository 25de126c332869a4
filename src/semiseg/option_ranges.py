"""Ranges of numeric options, declared in the types of dataclass fields and checked by `out_of_range`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from semiseg.errors import UserError


@dataclass(frozen=True)
class Range:
    """Allowed values of a numeric option, given as metadata of ``Annotated``.

    Args:
        low: Smallest value.
        high: Largest value. Infinity is never allowed.
        low_open: Exclude ``low``.
        high_open: Exclude ``high``.

    Example:
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     threshold: Annotated[float, Range(0, 1)] = 0.95
        ...     limit: Annotated[int | None, Range(1)] = None
        >>> list(out_of_range(Options(threshold=2.0)))
        [('threshold', 2.0, 'in [0, 1]')]
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: float) -> bool:
        above = self.low < value if self.low_open else self.low <= value
        below = value < self.high if self.high_open else value <= self.high
        return above and below and math.isfinite(value)

    def __str__(self) -> str:
        """Return the rule in words that complete "choose a value": ``in [0, 1]``, ``above 0``, ``of at least 1``."""
        low, high = (bound if isinstance(bound, int) else f"{bound:g}" for bound in (self.low, self.high))
        if math.isfinite(self.high):
            return f"in {'(' if self.low_open else '['}{low}, {high}{')' if self.high_open else ']'}"
        return f"above {low}" if self.low_open else f"of at least {low}"


FRACTION = Range(0, 1)
NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, low_open=True)
AT_LEAST_ONE = Range(1)


def range_error(option: str, value: float, rule: object) -> UserError:
    """Return the error for a value outside the range that ``rule``, a `Range` or its text, describes."""
    return UserError(f"{value} is out of range", option=option, fix=f"choose a value {rule}")


def read_part(text: str) -> slice:
    """Return the slice of a list that is part ``I`` of ``N``, for ``"I/N"``: every N-th item from the I-th on.

    Raises:
        UserError: The text is something else, or I is not in 1 to N.
    """
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UserError(f"{text!r} is not I/N with I from 1 to N", option="part", fix="give for example 1/8")
    return slice(int(number) - 1, None, int(count))


def out_of_range(options: Any) -> Iterator[tuple[str, float, str]]:
    """Yield name, value and rule of each option outside the `Range` of its type.

    Args:
        options: An instance of a dataclass. Values that are not numbers (None, ``"auto"``) are in every range.
    """
    for name, hint in get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name)
        if get_origin(hint) is not Annotated or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for allowed in get_args(hint)[1:]:
            if isinstance(allowed, Range) and value not in allowed:
                yield name, value, str(allowed)
