"""What may be opened at all: a pipe would be waited for, a device never ends."""

from pathlib import Path


def plain_file(path: Path) -> Path:
    """Return the path, also of what is not there; raises OSError for a folder, a pipe or a device."""
    if path.exists() and not path.is_file():
        raise OSError("a folder, pipe or device, and no file")
    return path
