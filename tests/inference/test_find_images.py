"""The images that ``predict`` finds in files and directories, and the names of their predictions."""

from __future__ import annotations

from pathlib import Path

import pytest

from semiseg.errors import UserError
from semiseg.inference.files.find_images import find_images


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def names(root: Path, *paths: str) -> dict[str, str]:
    """Return the names of predictions by file."""
    found = find_images([root / path for path in paths], root / "out").images
    return {image.path.relative_to(root).as_posix(): image.name for image in found}


def test_predictions_mirror_the_tree_below_the_given_directory(tmp_path: Path) -> None:
    tree(tmp_path / "photos", "day 1/IMG_0001.JPG", "day 2/IMG_0001.JPG", "a.b.png", "day 2/x.tiff")
    assert names(tmp_path, "photos") == {
        "photos/a.b.png": "a.b",
        "photos/day 1/IMG_0001.JPG": "day 1/IMG_0001",
        "photos/day 2/IMG_0001.JPG": "day 2/IMG_0001",
        "photos/day 2/x.tiff": "day 2/x",
    }


def test_files_that_differ_in_their_suffix_keep_it(tmp_path: Path) -> None:
    tree(tmp_path / "photos", "a.jpg", "a.png", "b.jpg", "d/A.jpg", "d/a.PNG")
    assert sorted(names(tmp_path, "photos").values()) == ["a.jpg", "a.png", "b", "d/A.jpg", "d/a.PNG"]


def test_directories_with_equal_names_inside_are_kept_apart(tmp_path: Path) -> None:
    tree(tmp_path, "one/a.jpg", "one/b.jpg", "two/a.jpg", "two/a.png")
    assert sorted(names(tmp_path, "one", "two").values()) == ["one/a", "one/b", "two/a.jpg", "two/a.png"]
    files = ("one/a.jpg", "two/a.jpg")
    assert names(tmp_path, *files) == {"one/a.jpg": "one/a", "two/a.jpg": "two/a"}
    assert names(tmp_path, "one/b.jpg", "two/a.jpg") == {"one/b.jpg": "b", "two/a.jpg": "a"}


def test_an_image_given_twice_is_predicted_once(tmp_path: Path) -> None:
    tree(tmp_path, "one/a.jpg")
    assert names(tmp_path, "one", "one/a.jpg") == {"one/a.jpg": "a"}


def test_names_that_remain_equal_are_refused(tmp_path: Path) -> None:
    tree(tmp_path, "x/photos/a.jpg", "y/photos/a.jpg")
    with pytest.raises(UserError, match=r"y/photos/a.jpg: .* that of .*x/photos/a.jpg. Predict the two into separate"):
        names(tmp_path, "x/photos", "y/photos")


def test_hidden_files_earlier_predictions_and_masks_are_not_searched(tmp_path: Path) -> None:
    tree(tmp_path, "out/a.png", ".cache/b.png", "._c.jpg", "__MACOSX/d.jpg", "data/images/e.jpg", "data/masks/e.png")
    tree(tmp_path, "masks/f.png")  # images that are called masks
    assert set(names(tmp_path, ".")) == {"data/images/e.jpg", "masks/f.png"}


def test_links_to_directories_are_followed_once(tmp_path: Path) -> None:
    tree(tmp_path, "photos/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "photos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "photos")
    assert names(tmp_path, "photos") == {"photos/a.jpg": "a", "photos/link/b.jpg": "link/b"}


def test_given_files_of_unsupported_kinds_are_named_and_others_tried(tmp_path: Path) -> None:
    tree(tmp_path, "clip.MP4", "photo", "a.jpg")
    assert set(names(tmp_path, "photo", "a.jpg")) == {"photo", "a.jpg"}
    assert len(find_images([tmp_path / "clip.MP4", tmp_path / "a.jpg"], tmp_path / "out").unsupported) == 1
    with pytest.raises(UserError, match=r"no images found .*; found 1 \.mp4 \(video: extract its frames\)"):
        names(tmp_path, "clip.MP4")


def test_files_of_unsupported_kinds_are_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree(tmp_path, "a.jpg", "clip.mp4", "scan.dcm", "scan2.DCM", "x.npy", "new.kind", "noend", "a.xml", "notes.txt")
    found = find_images([tmp_path], tmp_path / "out")
    found.print_unsupported()
    printed = capsys.readouterr().err
    assert len(found.images) == 1 and len(found.unsupported) == 6 and printed.count("\n") == 1
    for text in (
        "2 .dcm (DICOM: convert to PNG or TIFF)",
        "1 .mp4 (video",
        "1 .npy (array",
        "1 .kind",
        "without suffix",
    ):
        assert text in printed
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"no images found .*; found .*2 \.dcm \(DICOM"):
        find_images([tmp_path], tmp_path / "out")
