"""Lists of images in files: every published format in, an id a line out."""

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
from semiseg.data.files.image_files import IMAGE_SUFFIXES, reason
from semiseg.errors import UserError, is_utf8, require_regular_file

SUFFIX = "(?:" + "|".join(map(re.escape, IMAGE_SUFFIXES)) + ")"


def read_text(path: Path) -> str:
    """Read a text file in UTF-8; raises OSError also for a pipe or a device, which would be waited for."""
    return require_regular_file(path).read_text(encoding="utf-8-sig")


def read_lines(path: Path) -> tuple[str, ...]:
    """Read the lines of a text file, stripped, blank ones left out; raises UserError if it cannot be read."""
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); it must be a UTF-8 text file") from error
    return tuple(stripped for line in text.split("\n") if (stripped := line.strip()))


def read_list(path: Path, dataset: SegmentationDataset, missing: list[str] | None = None) -> tuple[str, ...]:
    """Read a list of images, one a line, in any published format, and return their ids.

    A line is an image, alone or with its mask behind a tab or a space; folders before it, a leading slash and a suffix
    are tolerated, as are blank lines, a missing last newline and line ends of any system. The second column is only
    compared: where a mask lies is known to the data set.

    Args:
        path: the list.
        dataset: what it lists.
        missing: where given, images that are not there are left out and put here; otherwise they are an error.

    Raises:
        UserError: it cannot be read, or a line names an image that is not there or stands there twice, or a mask of
            another image.
    """
    known, lines = set(dataset.ids), read_lines(path)
    if len(set(lines)) == len(lines) and known.issuperset(lines):  # the plain case, in which a million lines are quick
        return lines
    ids: dict[str, None] = {}
    absent: dict[str, None] = {}
    for line in lines:
        id, mask = (line, None) if line in known else _parse(line, dataset.image_ending, known)
        if id in ids or id in absent:
            raise UserError(f"{path}: {line!r} stands there twice; take one of the lines out")
        if mask is not None and not mask.startswith(id):
            raise UserError(f"{path}: {line!r} names the mask of another image; a mask bears its image's name")
        if id not in known and missing is None:
            raise UserError(
                f"{path}: {line!r} is no image of {dataset.name}; add the image, take the line out, or leave out all "
                "such lines by --existing-only"
            )
        (ids if id in known else absent)[id] = None
    if missing is not None:
        missing += absent
    return tuple(ids)


def listable(id: str) -> bool:
    """Tell whether a list can hold a name: it is one line, without space at its ends, of characters that UTF-8 has."""
    if id.isprintable():  # nearly every name, told quickly; neither line ends nor surrogates are printable
        return id != "" and id == id.strip()
    return id.splitlines() == [id] and id == id.strip() and not id.startswith("\ufeff") and is_utf8(id)


def find_id(text: str, known: set[str]) -> str | None:
    """Return the id that ``text`` means, with or without a folder before it and a suffix behind it; None for none."""
    return next((form for form in _forms(text, "") if form in known), None)


def _parse(line: str, ending: str, known: set[str]) -> tuple[str, str | None]:
    """Return the id that a line means, and the name of the mask in its second column.

    Own images may have spaces in their names: what is an id as it stands, is that; else a line is cut at a tab, or at a
    space behind a suffix; at any other space only if the whole is no image.
    """
    if line in known:
        return line, None
    columns = re.fullmatch(rf"([^\t]+)\t+(.+)|(.+?{SUFFIX}) +(.+)", line, re.IGNORECASE)
    if columns is None and not known.intersection(_forms(line, ending)):
        columns = re.fullmatch(r"(\S+) +(\S+)", line)
    image, mask = [part for part in columns.groups() if part] if columns else (line, None)
    forms = _forms(image.strip(), ending)
    return next((form for form in forms if form in known), forms[-1]), mask and _forms(mask, "")[-1]


def _forms(entry: str, ending: str) -> tuple[str, ...]:
    """What an entry may mean: itself, its name without folders, that without a suffix, that without the ending."""
    name = re.split(r"[/\\]", entry)[-1]
    stem = re.sub(rf"{SUFFIX}$", "", name, flags=re.IGNORECASE)
    return entry, name, stem, stem.removesuffix(ending)


@dataclass
class ListReader:
    """Reads the lists of a data set, and notes what was left out of them.

    Attributes:
        dataset: the data.
        existing_only: whether to leave out images that are not there.
        train: the training images.
        train_missing: those of the train list that are not there.
        notes: what a person should know.
    """

    dataset: SegmentationDataset
    existing_only: bool
    train: Sequence[str] = ()
    train_missing: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    def named(self, name: str) -> tuple[str, ...] | None:
        """Read ``train``, ``val`` or ``test``, None where there is no such list."""
        missing: list[str] = []
        ids = self.dataset.split(name, missing if self.existing_only else None)
        if ids == () and not missing:
            raise UserError(f"{self.dataset.name}: the {name} list is empty; fill splits/{name}.txt or remove it")
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
        """Note how many of a list's images are not there; raises UserError if none is."""
        if missing and not ids and not may_be_empty:
            remedy = "take another list, or add images"
            raise UserError(f"{source}: none of its {len(missing)} images is in {self.dataset.name}; {remedy}")
        if missing:
            whole = len(ids) + len(missing)
            self.notes.append(f"{source}: {len(missing)} of {whole} images are not there and are left out")
        return ids


def write_list(path: Path, ids: Iterable[str]) -> None:
    """Write ids to a file, one a line."""
    path.write_text("\n".join((*ids, "")), encoding="utf-8")


def matching_unlabeled_list(path: Path) -> Path | None:
    """Return the list of unlabeled images that was published with a list of labeled ones, None if there is none.

    ``labeled.txt`` and ``unlabeled.txt`` (UniMatch, U2PL), ``..._labeled_1-8.txt`` and ``..._unlabeled_1-8.txt`` (CPS),
    ``training631_l.txt`` and ``training631_u.txt`` (Dual Teacher).
    """
    if path.with_name("shards.json").is_file():  # of a run: what lies beside says that the images were in shards
        return None
    names = {re.sub(r"(?<!un)labeled", "unlabeled", path.name), re.sub(r"_l\.txt$", "_u.txt", path.name)}
    return next((path.with_name(name) for name in names - {path.name} if path.with_name(name).is_file()), None)


def read_permutation(path: Path) -> list[int]:
    """Read a pickled NumPy permutation (CutMix-Seg's and ClassMix's ``split_0.pkl``) without running what it holds.

    Raises:
        UserError: it is anything else.
    """
    try:
        content = require_regular_file(path).read_bytes()
        for _, value, _ in pickletools.genops(content):
            if isinstance(value, int) and value > len(content):  # a count: memory would be taken for so many
                raise pickle.UnpicklingError(f"it speaks of {value:.3g} values in {len(content)} bytes")
        found = _ArrayUnpickler(io.BytesIO(content)).load()
        order = found.integers() if isinstance(found, _Array) else []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({reason(error)}); check the path") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused ({' '.join(str(error).split())}); take the split_0.pkl as published"
        ) from error
    except Exception as error:  # bytes that are no pickle make it fail in every way there is
        raise UserError(f"{path}: no pickle of an array ({type(error).__name__}); take it as published") from error
    if not order:
        raise UserError(f"{path}: it holds no list of whole numbers; take the split_0.pkl as published")
    if sorted(order) != list(range(len(order))):
        raise UserError(f"{path}: not each of 0 to {len(order) - 1} stands there once; take it as published")
    return order


class _Dtype:
    """Keeps what a pickle says of a dtype: its code (``i8``), later its byte order."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Keeps what a pickle says of an array: version, shape, dtype, Fortran order, bytes."""

    state: tuple[Any, ...] = ()

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def integers(self) -> list[int]:
        """Return its values; raises ValueError where it is no row of whole numbers."""
        _, shape, dtype, _, data = self.state
        if not isinstance(dtype, _Dtype) or not re.fullmatch("[<>|=][iu][1248]", f"{dtype.order}{dtype.code}"):
            raise ValueError("no whole numbers")
        values = np.frombuffer(data, dtype.order + dtype.code)
        if tuple(shape) != values.shape:
            raise ValueError("no row")
        integers: list[int] = values.tolist()
        return integers


class _ArrayUnpickler(pickle.Unpickler):
    """Knows what an array of numbers consists of and nothing else, so that no code of a file is ever run.

    NumPy's own functions are not called either: what a file says of a dtype's insides they would believe.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for one of the functions that arrays are made with; raises UnpicklingError for others."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _Array
        if module == "numpy" and name in ("ndarray", "dtype"):
            return {"ndarray": _Array, "dtype": _Dtype}[name]
        if (module, name) == ("_codecs", "encode"):
            return _as_bytes
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and nothing but an array of numbers is read")


def _as_bytes(text: str, encoding: str) -> bytes:
    return text.encode("latin1")  # how the second protocol writes bytes
