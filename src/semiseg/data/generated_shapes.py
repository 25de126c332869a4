"""Shapes: a generated data set in which only the shape of an object determines its class."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from functools import lru_cache
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import Color, SegmentationDataset
from semiseg.errors import UserError
from semiseg.seeding import derive_seed

Field = NDArray[np.float32]


def _circle(u: Field, v: Field) -> NDArray[np.bool_]:
    return u * u + v * v < 1


def _ring(u: Field, v: Field) -> NDArray[np.bool_]:
    squared = u * u + v * v
    return (squared < 1) & (squared > 0.5**2)


def _square(u: Field, v: Field) -> NDArray[np.bool_]:
    return np.maximum(abs(u), abs(v)) < 1


def _cross(u: Field, v: Field) -> NDArray[np.bool_]:
    return (np.maximum(abs(u), abs(v)) < 1) & (np.minimum(abs(u), abs(v)) < 0.3)


def _triangle(u: Field, v: Field) -> NDArray[np.bool_]:
    return (v > -0.5) & (v + math.sqrt(3) * abs(u) < 1)


def _star(u: Field, v: Field) -> NDArray[np.bool_]:
    tip, inner = math.pi / 5, 0.45
    angle = abs(np.mod(np.arctan2(v, u), 2 * tip) - tip)  # from an inner corner (0) to a tip (36 degrees), ten times
    radius = np.hypot(u, v)
    # Inside the line from the corner (inner, 0) to the tip (cos 36, sin 36).
    slope = (math.cos(tip) - inner) / math.sin(tip)
    return radius * np.cos(angle) - slope * radius * np.sin(angle) < inner


# Name, palette color, outline, and the scale that gives every shape an area of 2, so that size is not a clue.
SHAPES: tuple[tuple[str, Color, Callable[[Field, Field], NDArray[np.bool_]], float], ...] = (
    ("circle", (228, 87, 86), _circle, 0.80),
    ("square", (76, 120, 168), _square, 0.71),
    ("triangle", (245, 190, 70), _triangle, 1.24),
    ("star", (178, 121, 162), _star, 1.23),
    ("cross", (84, 162, 75), _cross, 0.99),
    ("ring", (114, 183, 178), _ring, 0.92),
)


# The difficulty: objects per image, their radius as a share of the image side, the largest rotation in radians, the
# difference between the two tones of a pattern, and the amplitude of the noise. A network with all masks learns the
# task in a few hundred steps. With a few masks it first memorizes colors and patterns, which do not generalize.
OBJECTS, RADIUS, TURN, CONTRAST, NOISE = (2, 3), (0.22, 0.34), 0.35, (0.02, 0.05), 0.03

MAX_IMAGES = 1_000_000  # per list; all names are kept in memory


class Shapes(SegmentationDataset):
    """Textured shapes that occlude each other on a textured background. Class 0 is the background.

    Colors, patterns and their scale are drawn from the same distribution for the background and every object, whatever
    the class, so a network has to recognize the shape. An image is a function of the seed and its id, so adding images
    does not change the others.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(self, images: int = 480, val: int = 40, test: int = 100, size: int = 96, seed: int = 0) -> None:
        if not 1 <= min(images, val, test) <= max(images, val, test) <= MAX_IMAGES or not 48 <= size <= 1024:
            raise UserError(
                "a number is out of range",
                path="shapes",
                fix=f"give 1 to {MAX_IMAGES} images to each of images, val and test, and a size of 48 to 1024",
            )
        self.name, self.root, self.size, self.seed = "shapes", None, size, seed
        self.classes = ("background", *(name for name, *_ in SHAPES))
        self.palette = ((40, 40, 40), *(color for _, color, *_ in SHAPES))
        counts = {"train": images, "val": val, "test": test}
        self._lists = {name: tuple(f"{name}{index:05d}" for index in range(count)) for name, count in counts.items()}
        self.ids = tuple(sorted(id for ids in self._lists.values() for id in ids))

    @classmethod
    def from_text(cls, text: str) -> Shapes:
        """Create the data set from ``images=N,val=N,test=N,size=PIXELS,seed=K``, all optional.

        Raises:
            UserError: A key is unknown or a value is not a number.
        """
        options: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            key, _, value = (word.strip() for word in part.partition("="))
            if key not in ("images", "val", "test", "size", "seed") or not value.isdecimal():
                fix = "give images, val, test, size, seed = number"
                raise UserError(f"cannot parse {part!r}", path=f"shapes:{text}", fix=fix)
            options[key] = int(value)
        return cls(**options)

    def read_image(self, id: str) -> Tensor:
        """Render an image as uint8 ``(3, size, size)``."""
        return torch.from_numpy(_render(self.seed, id, self.size)[0].transpose(2, 0, 1).copy())

    def read_mask(self, id: str) -> Tensor:
        """Render a mask as uint8 ``(size, size)``, without ignored pixels."""
        return torch.from_numpy(_render(self.seed, id, self.size)[1].copy())

    def has_mask(self, id: str) -> bool:
        """Return True: every image has a mask."""
        return True

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids of ``train``, ``val`` or ``test``."""
        return self._lists.get(name)


@lru_cache(maxsize=1024)  # about 40 kB each at 96 pixels
def _render(seed: int, id: str, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Render image ``(size, size, 3)`` and mask ``(size, size)``, both uint8."""
    rng = Random(derive_seed("shapes", seed, id))
    y, x = np.mgrid[:size, :size].astype(np.float32)
    regions, mask = _arrange(rng, x, y)
    count = int(regions.max()) + 1
    # Evenly spaced hues in random order: hues of one image differ, and the hue of each region is uniform.
    first, hues = rng.random(), rng.sample(range(count), count)
    image = np.zeros((size, size, 3), dtype=np.float32)
    for region in range(count):
        inside = regions == region
        hue = first + (hues[region] + rng.uniform(-0.2, 0.2)) / count
        image[inside] = _texture(rng, hue, x[inside], y[inside])
    angle, strength = rng.uniform(0, math.tau), rng.uniform(0, 0.3)
    image *= (1 + strength * ((x * math.cos(angle) + y * math.sin(angle)) / size))[..., None]  # uneven illumination
    noise = np.random.Generator(np.random.PCG64(rng.getrandbits(63))).random(image.shape, dtype=np.float32)
    image += (noise - 0.5) * NOISE
    return (image.clip(0, 1) * 255).astype(np.uint8), mask


def _arrange(rng: Random, x: Field, y: Field) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Place objects from back to front. Return the region index and the class of each pixel, both ``(size, size)``."""
    size = len(x)
    regions = np.zeros((size, size), dtype=np.uint8)
    mask = np.zeros((size, size), dtype=np.uint8)
    areas = [0]
    for _ in range(rng.randint(*OBJECTS)):
        kind, unit = rng.randrange(len(SHAPES)), size * rng.uniform(*RADIUS)
        center_x, center_y = size * rng.uniform(0.1, 0.9), size * rng.uniform(0.1, 0.9)
        angle = rng.uniform(-TURN, TURN)
        *_, outline, scale = SHAPES[kind]
        cos, sin = math.cos(angle) / (unit * scale), math.sin(angle) / (unit * scale)
        across, down = x - np.float32(center_x), y - np.float32(center_y)
        inside = outline(across * cos + down * sin, down * cos - across * sin)
        left = np.bincount(regions[~inside], minlength=len(areas))
        # Skip an object that would hide more than half of another.
        if all(left[region] >= area / 2 for region, area in enumerate(areas) if region):
            regions[inside], mask[inside] = len(areas), kind + 1
            areas.append(int(inside.sum()))
    return regions, mask


def _texture(rng: Random, hue: float, x: Field, y: Field) -> Field:
    """Return colors, float ``(P, 3)`` in [0, 1], for the pixels at ``x, y`` ``(P,)``: a random pattern of two tones."""
    low = rng.uniform(0.3, 0.8)
    tones = np.array(
        [
            colorsys.hsv_to_rgb((hue + rng.uniform(-0.02, 0.02)) % 1, rng.uniform(0.4, 0.9), value)
            for value in rng.sample((low, low + rng.uniform(*CONTRAST)), 2)
        ],
        dtype=np.float32,
    )
    angle, turns = rng.uniform(0, math.tau), math.tau / rng.uniform(5, 12)
    cos, sin = math.cos(angle) * turns, math.sin(angle) * turns
    along = x * cos + y * sin + np.float32(rng.uniform(0, math.tau))
    across = y * cos - x * sin + np.float32(rng.uniform(0, math.tau))
    pattern = rng.randrange(5)
    if pattern == 0:  # stripes
        wave = np.sin(along)
    elif pattern == 1:  # checks
        wave = np.sin(along) * np.sin(across) * 3
    elif pattern == 2:  # dots
        wave = (np.cos(along) + np.cos(across)) * 2 - 1
    elif pattern == 3:  # waves
        wave = np.sin(along + 2 * np.sin(across / 2))
    else:  # clouds
        wave = np.sin(along / 2 + 2 * np.sin(across / 3)) + np.sin(across / 2 + 2 * np.sin(along / 3))
    share = (wave.clip(-1, 1)[:, None] + 1) / 2
    return share * tones[0] + (1 - share) * tones[1]
