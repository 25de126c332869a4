"""``semiseg predict`` over shards and on several processes: the same masks, whole, and what is wrong is told once."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import semiseg
from semiseg import cli
from semiseg.data import Shapes
from semiseg.data.stream.make_shards import make_shards
from semiseg.inference.mask_writer import Masks

IMAGES = 10
ONE = ("--accelerator", "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"encoder": "test_resnet", "weights": "none", "steps": 1, "workers": 0, "accelerator": "cpu"}
    data, small = "shapes:images=4,val=1,test=1,size=48", {"crop_size": 48, "batch_size": 2}
    return semiseg.train(data, "supervised", tmp_path_factory.mktemp("runs") / "run", **options | small)


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
    """Four shards of three images or one."""
    pytest.importorskip("webdataset")
    make_shards(str(photos), tmp_path / "shards", 3)
    return tmp_path / "shards"


Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*argv: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["semiseg", "predict", *map(str, argv), *ONE])
        capsys.readouterr()
        return cli.main(), *capsys.readouterr()

    return run


def apart(*command: object) -> subprocess.CompletedProcess[str]:
    """Run a command in processes of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", *map(str, command), *ONE]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def unpacked(path: Path) -> dict[str, Image.Image]:
    with tarfile.open(path) as tar:
        return {member.name: Image.open(io.BytesIO(tar.extractfile(member).read())) for member in tar}  # type: ignore[union-attr]


def test_shards_of_masks_have_the_keys_of_the_images(run: Path, photos: Path, shards: Path, call: Call) -> None:
    out = shards.with_name("masks")
    status, told, _ = call(run, shards, "--out", out, "--overlay", "--confidence")
    assert (status, told) == (0, f"4 shards of masks in {out}\n")
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
            assert pictures[f"{key}.overlay.png"].size == pictures[f"{key}.confidence.png"].size == mask.size
            seen += 1
    assert seen == IMAGES


def test_a_shard_is_there_whole_or_not_at_all_and_it_goes_on(
    run: Path, shards: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = shards.with_name("whole"), shards.with_name("masks")
    assert call(run, shards, "--out", whole)[0] == 0
    draw, drawn = Masks.draw, []

    def interrupted(self: Masks, *given: object) -> object:
        drawn.append(given)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        return draw(self, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Masks, "draw", interrupted)
        assert call(run, shards, "--out", out)[0] == 130
    assert content(out) == {"shard-000000.tar": content(whole)["shard-000000.tar"]}
    status, _, errors = call(run, shards, "--out", out)
    assert status == 2 and "shard-000000.tar exists: choose another --out, or go on by --skip-existing" in errors
    assert call(run, shards, "--out", out, "--skip-existing")[:2] == (0, f"3 shards of masks in {out}\n")
    assert content(out) == content(whole)
    assert call(run, shards, "--out", out, "--skip-existing")[:2] == (0, f"0 masks in {out}\n")


def spoil(path: Path) -> str:
    """Put into a shard, in place of its second image, as many bytes that are none; return the image's key."""
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        member = tar.getmembers()[1]
    data[member.offset_data : member.offset_data + member.size] = b"x" * member.size
    path.write_bytes(data)
    return Path(member.name).stem


def test_what_cannot_be_read_is_told_and_left_out(run: Path, shards: Path, call: Call) -> None:
    out = shards.with_name("masks")
    key = spoil(shards / "shard-000001.tar")
    cut = shards / "shard-000002.tar"
    cut.write_bytes(cut.read_bytes()[:700])
    status, told, errors = call(run, shards, "--out", out)
    lines = errors.splitlines()
    assert status == 2 and told == "" and len(lines) == 3, errors
    assert (
        lines[0].startswith(f"{shards}/shard-000001.tar: {key}: the image cannot be read") and "; skipped" in lines[0]
    )
    assert lines[1].startswith(f"{cut}: no plain tar file, or a damaged one") and "; skipped" in lines[1]
    assert lines[2].startswith(f"semiseg: 4 of 10 images cannot be read, see above, and have no mask in {out}")
    assert sorted(content(out)) == ["shard-000000.tar", "shard-000001.tar", "shard-000003.tar"]
    assert f"{key}.png" not in unpacked(out / "shard-000001.tar") and len(unpacked(out / "shard-000001.tar")) == 2


def packed(path: Path, *members: tuple[str, bytes], claims: int = 0) -> None:
    """Write a tar file of members, and one more of a size that is claimed alone."""
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
        os.truncate(path, path.stat().st_size + claims)  # a file with a hole, which takes no room


def test_members_that_lead_elsewhere_or_claim_to_be_huge_are_left_out(run: Path, photos: Path, call: Call) -> None:
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


@pytest.mark.parametrize("strange", ["sub/{}/x.tar", "sub//x.tar", "sub/./x.tar", "/{}/a.tar"])
def test_shards_whose_names_lead_elsewhere_get_no_masks(run: Path, photos: Path, call: Call, strange: str) -> None:
    pytest.importorskip("webdataset")
    folder, out, away = photos.with_name("sh"), photos.with_name("masks"), photos.with_name("escaped")
    strange = strange.format(away)
    for name in ("sub/a.tar", "sub/b/a.tar", strange):
        packed(folder / name, ("a.png", (photos / "1.png").read_bytes()))
    before = sorted(photos.parent.rglob("*"))
    entries = [{"url": url, "nsamples": 1} for url in ("sub/a.tar", "sub/b/a.tar", strange)]
    (folder / "index.json").write_text(json.dumps({"shardlist": entries}))
    status, _, errors = call(run, folder, "--out", out)
    assert status == 2 and errors.count("\n") == 1 and "is no plain name below" in errors, errors
    assert sorted(photos.parent.rglob("*")) == sorted([*before, folder / "index.json"])


def test_images_are_not_hidden_by_a_tar_file_or_an_index_of_something_else(
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
        assert f"{photos}: 0.png and {name} lie side by side: give {photos / name} itself" in errors
        (photos / name).unlink()
    (photos / "index.json").write_text('{"pages": []}')
    assert make_shards(str(photos), packed)[0] == f"{packed}: {IMAGES} images in 1 shards"
    assert call(run, photos, "--out", out)[:2] == (0, f"{IMAGES} masks in {out}\n")


def test_what_makes_no_sense_is_refused_in_one_line(run: Path, photos: Path, shards: Path, call: Call) -> None:
    out = shards.with_name("masks")
    for arguments, pattern in (
        ((photos, shards), "give shards of one place alone, others in another call"),
        (("http://127.0.0.1:9/photos",), "http://127.0.0.1:9/photos/index.json: cannot be read"),
        ((shards, "--devices", "0"), "--devices is 0: it must be auto or at least 1"),
    ):
        status, told, errors = call(run, *arguments, "--out", out)
        assert status == 2 and told == "" and pattern in errors and errors.count("\n") == 1
        assert not out.exists()


def test_two_processes_write_the_masks_of_one_and_tell_what_is_wrong_once(
    run: Path, photos: Path, tmp_path: Path, call: Call
) -> None:
    (photos / "broken.png").write_bytes(b"this is no picture")
    one, two = tmp_path / "one", tmp_path / "two"
    assert call(run, photos, "--out", one, "--confidence")[0] == 2
    done = apart("semiseg.cli", "predict", run, photos, "--out", two, "--confidence", "--devices", 2)
    assert done.returncode == 2 and done.stdout == ""
    assert content(one) == content(two) and len(content(one)) == 2 * IMAGES
    assert done.stderr.count("broken.png: the image cannot be read") == 1
    assert done.stderr.count(f"1 of 11 images cannot be read, see above, and have no mask in {two}") == 1


FRAGILE = """
import os, signal, sys
from semiseg import cli
from semiseg.inference.mask_writer import Masks

draw, drawn = Masks.draw, []

def fragile(self, *given):
    drawn.append(given)
    if os.environ.get("LOCAL_RANK") == "1" and len(drawn) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return draw(self, *given)

Masks.draw = fragile
sys.exit(cli.main())
"""


def test_where_one_process_is_killed_all_end_and_it_goes_on(
    run: Path, photos: Path, tmp_path: Path, call: Call
) -> None:
    script, one, two = tmp_path / "fragile.py", tmp_path / "one", tmp_path / "two"
    script.write_text(FRAGILE)
    command = [sys.executable, script, "predict", run, photos, "--out", two, "--devices", "2", *ONE]
    ended = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    told = [line for line in ended.stderr.splitlines() if line.startswith("semiseg: ")]
    assert len(told) == 1 and "Traceback" not in ended.stderr, ended.stderr
    assert told[0].startswith("semiseg: rank 1 of 2 was ended by SIGKILL")
    assert told[0].endswith(": go on by the same command with --skip-existing")
    assert 2 <= len(content(two)) < IMAGES
    assert call(run, photos, "--out", two, "--skip-existing")[0] == 0
    assert call(run, photos, "--out", one)[0] == 0
    assert content(one) == content(two)


def test_under_torchrun_the_shards_are_shared_out(run: Path, shards: Path, tmp_path: Path, call: Call) -> None:
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "semiseg.cli")
    done = apart(*launch, "predict", run, shards, "--out", tmp_path / "two")
    assert done.returncode == 0 and done.stdout == f"4 shards of masks in {tmp_path / 'two'}\n", done.stderr
    assert call(run, shards, "--out", tmp_path / "one")[0] == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_the_command_line_makes_shards(
    photos: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
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
