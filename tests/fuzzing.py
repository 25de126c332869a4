"""What tests/test_fuzz.py draws, and for how long."""

from __future__ import annotations

import copy
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

MINUTES = float(os.environ.get("SEMISEG_FUZZ_MINUTES", "0"))
"""How long all of it takes: 0 is the same few draws each time; ``make fuzz MINUTES=60`` draws others each time."""

MOST_BYTES = 4 * 2**30
"""What a reader may take beside what the tests have, of whatever size its input says that it is."""

TARGETS: list[str] = []
Body = Callable[..., None]


def fuzz(examples: int = 40, **strategies: st.SearchStrategy[Any]) -> Callable[[Body], Callable[[Path], None]]:
    """Draw arguments for a test that takes a ``folder`` beside them; no draw may take five seconds or `MOST_BYTES`."""
    profile = settings(
        max_examples=examples,
        deadline=timedelta(seconds=5),
        derandomize=not MINUTES,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
    )

    def decorate(body: Body) -> Callable[[Path], None]:
        TARGETS.append(body.__name__)
        drawn = profile(given(**strategies)(body))

        def test(folder: Path) -> None:
            until = time.monotonic() + 60 * MINUTES / len(TARGETS)
            with bounded(MOST_BYTES):
                while True:
                    drawn(folder=folder)
                    if time.monotonic() >= until:
                        return

        test.__doc__ = body.__doc__
        return pytest.mark.timeout(120 + 60 * MINUTES)(test)

    return decorate


@contextmanager
def bounded(more: int) -> Iterator[None]:
    """Let the process take so many bytes more than it has; beyond it raises MemoryError (where that can be set)."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ENDLESS = 2**200
"""Stands for a number of more digits than Python reads, which hypothesis could not print."""
numbers = st.one_of(st.integers(), st.integers(-3, 300), st.floats(), st.just(ENDLESS), st.just(2**63))
scalars = st.one_of(st.none(), st.booleans(), numbers, names)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=10,
)
paths = st.one_of(names, st.just("x" * 300), st.just("a/" * 3000), st.just("\0"), st.just(".."), st.just("~"))


def to_json(content: Any) -> str:
    """Write JSON, ``ENDLESS`` with five thousand digits."""
    if content == ENDLESS:
        return "9" * 5000
    if isinstance(content, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {to_json(value)}" for key, value in content.items()) + "}"
    if isinstance(content, list):
        return "[" + ", ".join(map(to_json, content)) + "]"
    return json.dumps(content)


@st.composite
def lines_of(draw: st.DrawFn, *pieces: str) -> str:
    """Text that is put together from pieces that mean something, and from what means nothing."""
    piece = st.one_of(st.sampled_from([*pieces, " ", "\t", "\n", ",", ":", ";", "#", "/", ".png", "255"]), names)
    return "".join(draw(st.lists(piece, max_size=30)))


def inside(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: the list or dict that it is in, and its index or key there."""
    if isinstance(node, dict | list):
        for key in [*node] if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from inside(node[key])


@st.composite
def spoiled(draw: st.DrawFn, document: Any) -> Any:
    """The document with up to three values replaced, removed or doubled, anywhere in it."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(inside(document))  # each as likely, however deep it lies
        if not places:
            continue
        parent, key = draw(st.sampled_from(places))
        node = parent[key]
        what = draw(st.sampled_from(["replace", "replace", "remove", "double"]))
        if what == "remove":
            del parent[key]
        elif what == "double" and isinstance(parent, list):
            parent.append(copy.deepcopy(node))
        else:
            parent[key] = draw(documents)
    return document


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes cut off, or with some of them changed, doubled or left out."""
    spoilt = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(spoilt) - 1, 0)))
        end = at + draw(st.integers(0, 8))
        spoilt[at:end] = draw(st.one_of(st.binary(max_size=8), st.just(bytes(spoilt[at:end]) * 2)))
    return bytes(spoilt[: draw(st.integers(0, len(spoilt)))] if draw(st.booleans()) else spoilt)
