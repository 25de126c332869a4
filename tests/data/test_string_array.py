"""StringArray and FolderFiles: strings in one buffer, and paths that are created on access."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semiseg.data.files.file_lists import list_files
from semiseg.data.files.string_array import FolderFiles, StringArray

STRINGS = st.lists(st.text(max_size=8) | st.just("\udcff"))  # the last: a byte of a file name that is not UTF-8


@settings(max_examples=40, deadline=None)
@given(STRINGS)
def test_string_array_behaves_like_tuple(names: list[str]) -> None:
    names = [name for name in names if encodable(name)]
    array = StringArray(names)
    assert len(array) == len(names) and list(array) == names
    assert [array[index] for index in range(-len(names), len(names))] == names + names
    assert array[1:] == tuple(names[1:]) and array[::-2] == tuple(names[::-2])
    assert pickle.loads(pickle.dumps(array)) == array == tuple(names) and hash(array) == hash(tuple(names))
    assert array != (*names, "more") and array != StringArray([*names, "more"]) and array != names
    with pytest.raises(IndexError):
        array[len(names)]


def encodable(name: str) -> bool:
    """Return whether a file may have this name; an unpaired surrogate is invalid."""
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


LETTERS = st.characters(codec="utf-8")


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(LETTERS, min_size=1, max_size=6), st.sampled_from([".png", ".JPG"])))
def test_folder_files_behave_like_sorted_dict(suffixes: dict[str, str]) -> None:
    files = FolderFiles(Path("here"), suffixes)
    assert dict(files) == {stem: Path("here", stem + suffix) for stem, suffix in suffixes.items()}
    assert list(files) == sorted(suffixes) and len(files) == len(suffixes)
    assert "absent" not in files and files.get("absent") is None
    assert dict(pickle.loads(pickle.dumps(files))) == dict(files)


def test_100_000_files_take_20_bytes_each() -> None:
    """A dict of paths took twenty times as much."""
    files = FolderFiles(Path("images"), {f"photo_{index:08d}": ".jpg" for index in range(100_000)})
    assert files["photo_00070000"] == Path("images", "photo_00070000.jpg")
    assert len(pickle.dumps(files)) < 3_000_000


def test_list_files_skips_hidden_files_and_other_suffixes(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.png", ".c.png", ".png", "png", "d.txt", "e.tar.png", "f."):
        (tmp_path / name).touch()
    files = list_files(tmp_path, (".png",))
    assert dict(files) == {"a": tmp_path / "a.png", "b": tmp_path / "b.PNG", "e.tar": tmp_path / "e.tar.png"}
    assert not list_files(tmp_path / "nowhere", (".png",))
