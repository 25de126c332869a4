"""Seeds derived from what they are used for, so that randomness does not depend on earlier samples."""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """Derive a 63-bit seed from ``parts``; it is the same on every machine and in every process.

    Args:
        parts: The purpose of the seed, e.g. ``(seed, "unlabeled", epoch, image_id)``. Order matters.

    Example:
        >>> derive_seed(0, "labeled", 3) == derive_seed(0, "labeled", 3)
        True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """Return a CPU generator seeded with ``derive_seed(*parts)``."""
    return torch.Generator().manual_seed(derive_seed(*parts))
