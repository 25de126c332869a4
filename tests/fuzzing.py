"""Decorator and strategies of tests/system/test_fuzz.py."""

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
"""Duration of all fuzz tests together. 0 selects a few fixed examples, any other value random ones."""

MAX_BYTES = 4 * 2**30
"""Memory that a reader may allocate, whatever size its input claims."""

TARGETS: list[str] = []
Body = Callable[..., None]


def fuzz(examples: int = 40, **strategies: st.SearchStrategy[Any]) -> Callable[[Body], Callable[[Path], None]]:
    """Run a test that takes a ``folder`` with generated arguments, each within five seconds and `MAX_BYTES`."""
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
        run = profile(given(**strategies)(body))

        def test(folder: Path) -> None:
            until = time.monotonic() + 60 * MINUTES / len(TARGETS)
            with memory_limit(MAX_BYTES):
                while True:
                    run(folder=folder)
                    if time.monotonic() >= until:
                        return

        test.__doc__ = body.__doc__
        return pytest.mark.timeout(120 + 60 * MINUTES)(test)

    return decorate


@contextmanager
def memory_limit(extra: int) -> Iterator[None]:
    """Limit the memory that the process may allocate in addition, on Linux. Beyond, MemoryError is raised."""
    if not Path("/proc/self/statm").exists():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
ENDLESS = 2**200
"""Placeholder for a number with more digits than Python parses, which hypothesis cannot print."""
numbers = st.one_of(st.integers(), st.integers(-3, 300), st.floats(), st.just(ENDLESS), st.just(2**63))
scalars = st.one_of(st.none(), st.booleans(), numbers, names)
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=4)),
    max_leaves=10,
)
paths = st.one_of(names, st.just("x" * 300), st.just("a/" * 3000), st.just("\0"), st.just(".."), st.just("~"))


def to_json(content: Any) -> str:
    """Return JSON in which ``ENDLESS`` has five thousand digits."""
    if content == ENDLESS:
        return "9" * 5000
    if isinstance(content, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {to_json(value)}" for key, value in content.items()) + "}"
    if isinstance(content, list):
        return "[" + ", ".join(map(to_json, content)) + "]"
    return json.dumps(content)


@st.composite
def lines_of(draw: st.DrawFn, *pieces: str) -> str:
    """Generate text from meaningful pieces, separators and random names."""
    piece = st.one_of(st.sampled_from([*pieces, " ", "\t", "\n", ",", ":", ";", "#", "/", ".png", "255"]), names)
    return "".join(draw(st.lists(piece, max_size=30)))


def nested_values(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each value of a document by its container and its key or index there."""
    if isinstance(node, dict | list):
        for key in [*node] if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from nested_values(node[key])


@st.composite
def corrupted(draw: st.DrawFn, document: Any) -> Any:
    """Generate the document with up to three values replaced, removed or duplicated at any depth."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        values = list(nested_values(document))  # equally likely at any depth
        if not values:
            continue
        parent, key = draw(st.sampled_from(values))
        node = parent[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "duplicate"]))
        if action == "remove":
            del parent[key]
        elif action == "duplicate" and isinstance(parent, list):
            parent.append(copy.deepcopy(node))
        else:
            parent[key] = draw(documents)
    return document


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Generate the bytes truncated, or with some of them changed, duplicated or removed."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(changed) - 1, 0)))
        end = at + draw(st.integers(0, 8))
        changed[at:end] = draw(st.one_of(st.binary(max_size=8), st.just(bytes(changed[at:end]) * 2)))
    return bytes(changed[: draw(st.integers(0, len(changed)))] if draw(st.booleans()) else changed)
