"""Which device to compute on."""

import torch

from semiseg.errors import UserError


def find_accelerator(name: str) -> str:
    """Return ``cuda``, ``mps`` or ``cpu`` for one of these, or the best of them for ``auto``.

    Raises:
        UserError: an accelerator that this machine does not have.
    """
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, there in has.items() if there)
    if not has[name]:
        raise UserError(f"--accelerator {name}: this machine has none that PyTorch can use: try auto or cpu")
    return name
