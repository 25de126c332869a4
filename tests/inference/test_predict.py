"""``semiseg predict`` over shards and on several ranks: the same masks, complete files, each error reported once."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import semiseg
from commands import Command
from semiseg import cli
from semiseg.data import Shapes
from semiseg.data.stream.make_shards import make_shards
from semiseg.inference.formats.prediction_writer import PredictionWriter

IMAGES = 10
ONE = ("--accelerator", "cpu")
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    dataset = Shapes(images=IMAGES, val=1, test=1, size=48, seed=9)
    for number, id in enumerate(dataset.ids[:IMAGES]):
        Image.fromarray(dataset.read_image(id).permute(1, 2, 0).numpy()[: 40 + number]).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def shards(photos: Path, tmp_path: Path) -> Path:
    """Four shards with three images or one each."""
    pytest.importorskip("webdataset")
    make_shards(str(photos), tmp_path / "shards", 3)
    return tmp_path / "shards"


def run_ranks(folder: Path, *command: object, module: str = "semiseg.cli", **variables: str) -> tuple[int, str, str]:
    """Run a command that starts ranks, in another process; return exit status, stdout and stderr."""
    arguments, out, errors = [*map(str, command), *ONE], folder / "stdout.txt", folder / "stderr.txt"
    status, _ = Command(arguments, errors, os.environ | variables, out, module).finish(120)
    return status, out.read_text(), errors.read_text()


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unpacked(path: Path) -> dict[str, Image.Image]:
    with tarfile.open(path) as tar:
        return {member.name: Image.open(io.BytesIO(tar.extractfile(member).read())) for member in tar}  # type: ignore[union-attr]


def test_mask_shards_have_the_keys_of_the_images(run: Path, photos: Path, shards: Path, call: Call) -> None:
    out = shards.with_name("masks")
    status, printed, _ = call(run, shards, "--out", out, "--overlay", "--confidence")
    assert (status, printed) == (0, f"4 shards of masks in {out}\n")
    model, seen = semiseg.load(run, accelerator="cpu"), 0
    for path in sorted(shards.glob("*.tar")):
        pictures = unpacked(out / path.name)
        keys = [Path(name).stem for name in unpacked(path)]
        names = [f"{key}.{ending}" for key in keys for ending in ("confidence.png", "overlay.png", "png")]
        assert list(pictures) == names
        for key in keys:
            mask = pictures[f"{key}.png"]
            expected = model(photos / f"{key}.png").mask
            assert mask.mode == "P" and torch.equal(torch.from_numpy(np.array(mask)), expected)
            assert pictures[f"{key}.confidence.png"].size == mask.size
            overlay = pictures[f"{key}.overlay.png"]  # with the legend below
            assert overlay.width >= mask.width and overlay.height > mask.height
            seen += 1
    assert seen == IMAGES


def test_interrupted_prediction_leaves_complete_shards_and_resumes(
    run: Path, shards: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = shards.with_name("whole"), shards.with_name("masks")
    assert call(run, shards, "--out", whole)[0] == 0
    render, rendered = PredictionWriter.render, []

    def interrupted(self: PredictionWriter, *arguments: object) -> object:
        rendered.append(arguments)
        if len(rendered) == 5:
            raise KeyboardInterrupt
        return render(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(PredictionWriter, "render", interrupted)
        assert call(run, shards, "--out", out)[0] == 130
    assert content(out) == {"shard-000000.tar": content(whole)["shard-000000.tar"]}
    status, _, errors = call(run, shards, "--out", out)
    assert status == 2 and "shard-000000.tar: exists. Choose another --out, or add --skip-existing" in errors
    assert call(run, shards, "--out", out, "--skip-existing")[:2] == (0, f"3 shards of masks in {out}\n")
    assert content(out) == content(whole)
    assert call(run, shards, "--out", out, "--skip-existing")[:2] == (0, f"0 masks in {out}\n")


def damage(path: Path) -> str:
    """Overwrite the second image of a shard with bytes of the same number; return the key of the image."""
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        member = tar.getmembers()[1]
    data[member.offset_data : member.offset_data + member.size] = b"x" * member.size
    path.write_bytes(data)
    return Path(member.name).stem


def test_unreadable_images_are_reported_and_skipped(run: Path, shards: Path, call: Call) -> None:
    out = shards.with_name("masks")
    key = damage(shards / "shard-000001.tar")
    cut = shards / "shard-000002.tar"
    cut.write_bytes(cut.read_bytes()[:700])
    status, printed, errors = call(run, shards, "--out", out)
    lines = errors.splitlines()
    assert status == 2 and printed == "" and len(lines) == 3, errors
    assert lines[0].startswith(f"skipped: {shards}/shard-000001.tar: {key}: the image cannot be read")
    assert lines[1].startswith(f"skipped: {cut}: ") and "damaged" in lines[1]
    assert lines[2].startswith(f"semiseg: 4 of 10 images cannot be read, see above, and have no mask in {out}")
    assert sorted(content(out)) == ["shard-000000.tar", "shard-000001.tar", "shard-000003.tar"]
    assert f"{key}.png" not in unpacked(out / "shard-000001.tar") and len(unpacked(out / "shard-000001.tar")) == 2


def packed(path: Path, *members: tuple[str, bytes], claims: int = 0) -> None:
    """Write a tar file with members, and one more member of which only the header, with a false size, is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        if claims:
            info = tarfile.TarInfo("claims.png")
            info.size = claims
            file.write(info.tobuf())
    if claims:
        os.truncate(path, path.stat().st_size + claims)  # a sparse file, which needs no disk space


def test_members_with_malicious_names_or_sizes_are_skipped(run: Path, photos: Path, call: Call) -> None:
    pytest.importorskip("webdataset")
    picture = (photos / "1.png").read_bytes()
    names = ("../../evil", "/abs/evil", "a/../../evil", "\\abs\\evil", "./a", "b/c")
    tar, out = photos.with_name("sh") / "a.tar", photos.with_name("masks")
    packed(tar, *((f"{name}.png", picture) for name in names), claims=1 << 40)
    status, _, errors = call(run, tar, "--out", out)
    lines = errors.splitlines()
    assert status == 2 and len(lines) == 6 and "5 of 7 images cannot be read" in lines[-1], errors
    assert all("the image's name leads out of its folder" in line and f"{tar}: " in line for line in lines[:4])
    assert f"{tar}: claims: the image cannot be read (it claims {1 << 40} bytes)" in lines[4]
    assert list(unpacked(out / "a.tar")) == ["./a.png", "b/c.png"]


@pytest.mark.parametrize("name", ["sub/{}/x.tar", "sub//x.tar", "sub/./x.tar", "/{}/a.tar"])
def test_malformed_shard_names_are_refused(run: Path, photos: Path, call: Call, name: str) -> None:
    pytest.importorskip("webdataset")
    folder, out, away = photos.with_name("sh"), photos.with_name("masks"), photos.with_name("escaped")
    names = ("sub/a.tar", "sub/b/a.tar", name.format(away))
    for shard in names:
        packed(folder / shard, ("a.png", (photos / "1.png").read_bytes()))
    before = sorted(photos.parent.rglob("*"))
    entries = [{"url": url, "nsamples": 1} for url in names]
    (folder / "index.json").write_text(json.dumps({"shardlist": entries}))
    status, _, errors = call(run, folder, "--out", out)
    assert status == 2 and errors.count("\n") == 1 and "is not a plain file name below" in errors, errors
    assert sorted(photos.parent.rglob("*")) == sorted([*before, folder / "index.json"])


def test_images_beside_a_tar_file_or_index_are_refused(
    run: Path, photos: Path, shards: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, packed = photos.with_name("masks"), photos.with_name("packed")

    index = (shards / "index.json").read_text()
    for name, content in (("backup.tar", "no matter what"), ("index.json", index)):
        (photos / name).write_text(content)
        monkeypatch.setattr(sys, "argv", ["semiseg", "prepare", "shards", "--from", str(photos), "--out", str(packed)])
        assert cli.main() == 2 and not packed.exists()
        status, _, errors = call(run, photos, "--out", out)
        assert status == 2 and errors.count("\n") == 1 and not out.exists()
        assert f"{photos}: the folder holds both 0.png and {name}. Give {photos / name} itself" in errors
        (photos / name).unlink()
    (photos / "index.json").write_text('{"pages": []}')
    assert make_shards(str(photos), packed)[0] == f"{packed}: {IMAGES} images in 1 shards"
    assert call(run, photos, "--out", out)[:2] == (0, f"{IMAGES} masks in {out}\n")


@pytest.mark.parametrize("source", ["photos", "shards"])
def test_parts_write_the_files_of_the_whole(
    run: Path, source: str, tmp_path: Path, call: Call, request: pytest.FixtureRequest
) -> None:
    images, whole, parts = request.getfixturevalue(source), tmp_path / "whole", tmp_path / "parts"
    assert call(run, images, "--out", whole)[0] == 0
    counts = [0]
    for number in (3, 1, 2):
        assert call(run, images, "--out", parts, "--part", f"{number}/3")[0] == 0
        counts.append(len(content(parts)))
    assert content(parts) == content(whole)
    assert {after - before for before, after in pairwise(counts)} <= {1, 2, 3, 4}


def test_contradicting_arguments_are_refused(run: Path, photos: Path, shards: Path, call: Call) -> None:
    out = shards.with_name("masks")
    for arguments, pattern in (
        ((photos, shards), "shards must come from one source. Predict each source separately"),
        (("http://127.0.0.1:9/photos",), "http://127.0.0.1:9/photos/index.json: cannot be read"),
        ((photos, "--part", "4/3"), "--part: '4/3' is not I/N with I from 1 to N. Give for example 1/8"),
        ((photos, "--part", "1/2", "--format", "yolo"), "--part: yolo writes files about all images. Leave --part out"),
        ((shards, "--devices", "0"), "--devices: 0 is out of range. Choose a value of at least 1"),
    ):
        status, printed, errors = call(run, *arguments, "--out", out)
        assert status == 2 and printed == "" and pattern in errors and errors.count("\n") == 1
        assert not out.exists()


@pytest.mark.slow
def test_two_ranks_write_the_masks_of_one_and_report_errors_once(
    run: Path, photos: Path, tmp_path: Path, call: Call
) -> None:
    (photos / "broken.png").write_bytes(b"not an image")
    one, two = tmp_path / "one", tmp_path / "two"
    assert call(run, photos, "--out", one, "--confidence")[0] == 2
    command = ("predict", run, photos, "--out", two, "--confidence", "--devices", 2)
    status, printed, errors = run_ranks(tmp_path, *command)
    assert (status, printed) == (2, "")
    assert content(one) == content(two) and len(content(one)) == 2 * IMAGES
    assert errors.count("broken.png: the image cannot be read") == 1
    assert errors.count(f"1 of 11 images cannot be read, see above, and have no mask in {two}") == 1


FRAGILE = """
import os, signal

if os.environ.get("RANK") == "1":
    from semiseg.inference.formats.prediction_writer import PredictionWriter

    write, rendered = PredictionWriter.write, []

    def fragile(self, *arguments):
        rendered.append(arguments)
        if len(rendered) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(self, *arguments)

    PredictionWriter.write = fragile
"""


@pytest.mark.slow
def test_killed_rank_stops_all_and_prediction_resumes(run: Path, photos: Path, tmp_path: Path, call: Call) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    (tmp_path / "sitecustomize.py").write_text(FRAGILE)  # which every rank imports at its start
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = ("predict", run, photos, "--out", two, "--devices", 2)
    status, printed, errors = run_ranks(tmp_path, *command, PYTHONPATH=path)
    assert (status, printed) == (1, "")
    reported = [line for line in errors.splitlines() if line.startswith("semiseg: ")]
    assert len(reported) == 1 and "Traceback" not in errors, errors
    assert reported[0].startswith("semiseg: rank 1 of 2 was killed by SIGKILL")
    assert reported[0].endswith(". Resume with the same command and --skip-existing")
    assert 2 <= len(content(two)) < IMAGES
    assert call(run, photos, "--out", two, "--skip-existing")[0] == 0
    assert call(run, photos, "--out", one)[0] == 0
    assert content(one) == content(two)


@pytest.mark.slow
def test_torchrun_shares_the_shards_out(run: Path, shards: Path, tmp_path: Path, call: Call) -> None:
    launch = ("--standalone", "--nproc-per-node", 2, "-m", "semiseg.cli")
    command = (*launch, "predict", run, shards, "--out", tmp_path / "two")
    status, printed, errors = run_ranks(tmp_path, *command, module="torch.distributed.run")
    assert (status, printed) == (0, f"4 shards of masks in {tmp_path / 'two'}\n"), errors
    assert call(run, shards, "--out", tmp_path / "one")[0] == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_prepare_shards_command(photos: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("webdataset")

    def prepare(*argv: object) -> int:
        monkeypatch.setattr(sys, "argv", ["semiseg", "prepare", *map(str, argv)])
        return cli.main()

    assert prepare("shards", "--from", photos, "--out", tmp_path / "s", "--images-per-shard", 4) == 0
    assert sorted(content(tmp_path / "s")) == ["index.json", *(f"shard-{n:06d}.tar" for n in range(3))]
    for refused in (
        ("shards", "--from", photos, "--out", tmp_path / "s"),
        ("shards", "--from", photos, "--out", tmp_path / "t", "--images-per-shard", 0),
        ("shards", "--from", photos, "--out", tmp_path / "t", "--existing-only"),
        ("shards", "--from", tmp_path / "none", "--out", tmp_path / "t"),
        ("voc2012", "--from", photos, "--out", tmp_path / "t", "--images-per-shard", 4),
    ):
        assert prepare(*refused) == 2
    shutil.copy(photos / "1.png", photos / "a.b.png")
    shutil.copy(photos / "1.png", photos / "a_b.png")
    assert prepare("shards", "--from", photos, "--out", tmp_path / "t") == 2 and not (tmp_path / "t").exists()
