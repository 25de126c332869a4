"""Read lists of images in every published format, and write them with one id per line."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.file_lists import nfc
from semiseg.data.splits.id_lookup import SUFFIX, IdLookup
from semiseg.errors import UserError, is_utf8, os_error, require_regular_file


def read_text(path: Path) -> str:
    """Read a UTF-8 text file. Raises OSError also for pipes and devices, which could block."""
    return require_regular_file(path).read_text(encoding="utf-8-sig")


def read_lines(path: Path) -> tuple[str, ...]:
    """Return the lines of a text file, stripped, without blank ones. Raises UserError if it cannot be read."""
    try:
        text = read_text(path)
    except OSError as error:
        raise os_error(error, "cannot be read", path) from error
    except UnicodeDecodeError as error:
        problem = f"cannot be read ({type(error).__name__})"
        raise UserError(problem, path=path, fix="check that it is a UTF-8 text file") from error
    return tuple(stripped for line in text.split("\n") if (stripped := line.strip()))


def read_list(path: Path, dataset: SegmentationDataset, missing: list[str] | None = None) -> tuple[str, ...]:
    """Read a list of images, one per line, in any published format.

    A line holds an image, optionally followed by its mask after a tab or a space. Folders, a leading slash, suffixes,
    blank lines, a missing last newline and all kinds of line ends are accepted (see ``IdLookup``). The mask is only
    compared with the image, because the data set knows where its masks are.

    Args:
        path: The list.
        dataset: The listed data.
        missing: Collects listed images that do not exist. If None, they raise UserError.

    Returns:
        The ids, in order.

    Raises:
        UserError: One of

            - the file cannot be read,
            - a line names an image that does not exist or is listed twice, or may name several images,
            - a line names the mask of another image.
    """
    lookup, lines = IdLookup(dataset.ids, dataset.image_ending), read_lines(path)
    if len(set(lines)) == len(lines) and lookup.known.issuperset(lines):  # the fast path for plain lists
        return lines
    ids: dict[str, None] = {}
    absent: dict[str, None] = {}
    for line in lines:
        try:
            id, mask = (line, None) if line in lookup.known else _parse(line, lookup)
        except UserError as error:
            raise UserError(error.problem, path=path, fix=error.fix) from None
        if id in ids or id in absent:
            raise UserError(f"{line!r} is listed twice", path=path, fix="remove one of the lines")
        if mask is not None and not mask.startswith(id.rpartition("/")[2]):
            problem = f"{line!r} names the mask of another image"
            raise UserError(problem, path=path, fix="name each mask after its image")
        if id not in lookup.known and missing is None:
            fix = "add the image, remove the line, or pass --existing-only to skip missing images"
            fix = spelling_fix([line], dataset.ids) or fix
            raise UserError(f"{line!r} is not an image of {dataset.name}", path=path, fix=fix)
        (ids if id in lookup.known else absent)[id] = None
    if missing is not None:
        missing += absent
    return tuple(ids)


def spelling_fix(lines: Iterable[str], ids: Iterable[str]) -> str:
    """Return the fix for lines that name images in another case or before a comma, or an empty string."""
    known = {id.casefold() for id in ids}
    for line in lines:
        first, comma, _ = re.sub(rf"{SUFFIX}(?=[,;]|$)", "", line.casefold()).replace(";", ",").partition(",")
        if first.strip() in known:
            return "separate columns by a tab instead of a comma" if comma else "write names in the case of the images"
    return ""


def listable(id: str) -> bool:
    """Return whether a list can hold the id: one line of valid UTF-8 without leading or trailing space."""
    if id.isprintable():  # the fast path: line breaks and surrogates are not printable
        return id != "" and id == id.strip()
    return id.splitlines() == [id] and id == id.strip() and not id.startswith("\ufeff") and is_utf8(id)


def _parse(line: str, lookup: IdLookup) -> tuple[str, str | None]:
    """Return the id in a line, and the name of the mask in its second column or None.

    Ids may contain spaces. A line that is an image is taken as a whole. Other lines are split at a tab or at a space
    after a suffix. They are split at another space only if the whole line is not an image.
    """
    columns = re.fullmatch(rf"([^\t]+)\t+(.+)|(.+?{SUFFIX}) +(.+)", line, re.IGNORECASE)
    if columns is None and (id := lookup.find(line)) is not None:
        return id, None
    if columns is None:
        columns = re.fullmatch(r"(\S+) +(\S+)", line)
    image, mask = [part for part in columns.groups() if part] if columns else (line, None)
    id = lookup.find(image.strip())
    return id if id is not None else lookup.missing_id(image.strip()), mask and _mask_name(mask)


def _mask_name(mask: str) -> str:
    """Return the name of a mask without folders and suffix."""
    return re.sub(rf"{SUFFIX}$", "", nfc(re.split(r"[/\\]", mask)[-1]), flags=re.IGNORECASE)


@dataclass
class ListReader:
    """Reads the lists of a data set and notes which images they leave out.

    Attributes:
        dataset: The data.
        existing_only: Whether to leave out listed images that do not exist instead of raising UserError.
        has_unlabeled: Whether there is an unlabeled list.
        has_val: Whether there is a val list.
        train: The training images.
        unlabeled: Unlabeled images besides those among the training images.
        train_missing: Images in the train list that do not exist.
        notes: Notes for the user.
    """

    dataset: SegmentationDataset
    existing_only: bool
    has_unlabeled: bool = False
    has_val: bool = False
    train: Sequence[str] = ()
    unlabeled: Sequence[str] = ()
    train_missing: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def named(self, name: str) -> tuple[str, ...] | None:
        """Read the list ``train``, ``val`` or ``test``, or return None if there is none."""
        missing: list[str] = []
        ids = self.dataset.split(name, missing if self.existing_only else None)
        if ids == () and not missing:
            fix = f"fill splits/{name}.txt or remove it"
            raise UserError(f"the {name} list is empty", path=self.dataset.name, fix=fix)
        if name == "train":
            self.train_missing = tuple(missing)
        return None if ids is None else self.present(f"the {name} list", ids, missing)

    def file(self, path: Path, may_be_empty: bool = False) -> tuple[str, ...]:
        """Read a list from a file."""
        missing: list[str] = []
        ids = read_list(path, self.dataset, missing if self.existing_only else None)
        return self.present(str(path), ids, missing, may_be_empty)

    def present(
        self, source: str, ids: tuple[str, ...], missing: Sequence[str], may_be_empty: bool = False
    ) -> tuple[str, ...]:
        """Note how many images of a list do not exist. Raises UserError if none exists."""
        if missing and not ids and not may_be_empty:
            problem = f"none of its {len(missing)} images is in {self.dataset.name}"
            raise UserError(problem, path=source, fix="choose another list, or add images")
        if missing:
            total = len(ids) + len(missing)
            self.notes.append(f"{source}: {len(missing)} of {total} images do not exist and are left out")
        return ids

    def note_unlabeled(self, added: Sequence[str]) -> None:
        """Note where unlabeled images come from that are not training images."""
        if not added:
            return
        if not self.has_unlabeled:
            self.notes.append(f"unlabeled: {len(added)} images without a mask that no list names")
        elif masked := sum(map(self.dataset.has_mask, added)):
            fix = "Remove them from the list to train on the masks"
            self.notes.append(f"splits/unlabeled.txt: {masked} images have a mask, which is not used. {fix}")


def write_list(path: Path, ids: Iterable[str]) -> None:
    """Write ids to a file, one per line."""
    path.write_text("\n".join((*ids, "")), encoding="utf-8")


def matching_unlabeled_list(path: Path) -> Path | None:
    """Return the list of unlabeled images that was published next to a list of labeled ones, or None.

    ``labeled.txt`` and ``unlabeled.txt`` (UniMatch, U2PL), ``..._labeled_1-8.txt`` and ``..._unlabeled_1-8.txt`` (CPS),
    ``training631_l.txt`` and ``training631_u.txt`` (Dual Teacher).
    """
    if path.with_name("shards.json").is_file():  # the lists of a run whose unlabeled images are in shards
        return None
    names = {re.sub(r"(?<!un)labeled", "unlabeled", path.name), re.sub(r"_l\.txt$", "_u.txt", path.name)}
    return next((path.with_name(name) for name in names - {path.name} if path.with_name(name).is_file()), None)


def read_permutation(path: Path) -> list[int]:
    """Read a pickled NumPy permutation (``split_0.pkl`` of CutMix-Seg and ClassMix) without executing its code.

    Raises:
        UserError: The file holds anything else.
    """
    fix = "use the split_0.pkl as published"
    try:
        content = require_regular_file(path).read_bytes()
        for _, value, _ in pickletools.genops(content):
            if isinstance(value, int) and value > len(content):  # a count, for which memory would be allocated
                raise pickle.UnpicklingError(f"it claims {value:.3g} values in {len(content)} bytes")
        found = _ArrayUnpickler(io.BytesIO(content)).load()
        order = found.integers() if isinstance(found, _Array) else []
    except OSError as error:
        raise os_error(error, "cannot be read", path) from error
    except pickle.UnpicklingError as error:
        raise UserError(f"refused ({' '.join(str(error).split())})", path=path, fix=fix) from error
    except Exception as error:  # invalid pickles raise exceptions of many types
        raise UserError(f"not a pickled array ({type(error).__name__})", path=path, fix=fix) from error
    if not order:
        raise UserError("it does not hold a list of integers", path=path, fix=fix)
    if sorted(order) != list(range(len(order))):
        raise UserError(f"it is not a permutation of 0 to {len(order) - 1}", path=path, fix=fix)
    return order


class _Dtype:
    """The pickled state of a dtype: its code (``i8``) and its byte order."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """The pickled state of an array: version, shape, dtype, Fortran order, bytes."""

    state: tuple[Any, ...] = ()

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def integers(self) -> list[int]:
        """Return the values. Raises ValueError unless the array is a row of integers."""
        _, shape, dtype, _, data = self.state
        if not isinstance(dtype, _Dtype) or not re.fullmatch("[<>|=][iu][1248]", f"{dtype.order}{dtype.code}"):
            raise ValueError("not integers")
        values = np.frombuffer(data, dtype.order + dtype.code)
        if tuple(shape) != values.shape:
            raise ValueError("not a row")
        integers: list[int] = values.tolist()
        return integers


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles arrays of numbers and nothing else, so that no code from the file is executed.

    NumPy's own functions are not called either, because they trust the pickled state of a dtype.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a function in pickled arrays. Raises UnpicklingError for other functions."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Dtype}[name]
        if (module, name) == ("_codecs", "encode"):
            return _as_bytes
        raise pickle.UnpicklingError(f"it calls {module}.{name}, but only arrays of numbers are read")


def _as_bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # protocol 2 stores bytes like this
