"""Names in one buffer, and a folder's files as a dict that makes its paths when asked."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semiseg.data.files.image_files import list_files
from semiseg.data.files.string_array import FolderFiles, StringArray

STRINGS = st.lists(st.text(max_size=8) | st.just("\udcff"))  # the last: a byte of a file's name that is no UTF-8


@given(STRINGS)
def test_names_are_a_tuple_of_strings(names: list[str]) -> None:
    names = [name for name in names if encodable(name)]
    packed = StringArray(names)
    assert len(packed) == len(names) and list(packed) == names
    assert [packed[index] for index in range(-len(names), len(names))] == names + names
    assert packed[1:] == tuple(names[1:]) and packed[::-2] == tuple(names[::-2])
    assert pickle.loads(pickle.dumps(packed)) == packed == tuple(names) and hash(packed) == hash(tuple(names))
    assert packed != (*names, "more") and packed != StringArray([*names, "more"]) and packed != names
    with pytest.raises(IndexError):
        packed[len(names)]


def encodable(name: str) -> bool:
    """Tell whether a file may be called that: half of a pair of surrogates is no letter."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


LETTERS = st.characters(codec="utf-8")


@given(st.dictionaries(st.text(LETTERS, min_size=1, max_size=6), st.sampled_from([".png", ".JPG"])))
def test_files_are_a_sorted_dict(suffixes: dict[str, str]) -> None:
    files = FolderFiles(Path("here"), suffixes)
    assert dict(files) == {stem: Path("here", stem + suffix) for stem, suffix in suffixes.items()}
    assert list(files) == sorted(suffixes) and len(files) == len(suffixes)
    assert "absent" not in files and files.get("absent") is None
    assert dict(pickle.loads(pickle.dumps(files))) == dict(files)


def test_a_hundred_thousand_files_take_little_memory() -> None:
    """Some 20 bytes a file of 14 letters; a dict of paths took twenty times that."""
    files = FolderFiles(Path("images"), {f"photo_{index:08d}": ".jpg" for index in range(100_000)})
    assert files["photo_00070000"] == Path("images", "photo_00070000.jpg")
    assert len(pickle.dumps(files)) < 3_000_000


def test_listing_leaves_out_what_is_hidden_or_of_another_kind(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.png", ".c.png", ".png", "png", "d.txt", "e.tar.png", "f."):
        (tmp_path / name).touch()
    files = list_files(tmp_path, (".png",))
    assert dict(files) == {"a": tmp_path / "a.png", "b": tmp_path / "b.PNG", "e.tar": tmp_path / "e.tar.png"}
    assert not list_files(tmp_path / "nowhere", (".png",))
