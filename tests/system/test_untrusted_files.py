"""Untrusted files: they run no code, their names do not lead out of a directory, and they do not fill the memory."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import signal
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import semiseg
from semiseg import cli
from semiseg.config import MAX_YAML_ALIASES, TrainConfig, from_mapping, read_yaml
from semiseg.data import FolderDataset
from semiseg.data.importers import source_files
from semiseg.data.importers.shapes.polygons import brush_region, counts_region
from semiseg.data.palette_file import read_palette
from semiseg.data.splits.list_files import read_lines, read_list, read_permutation
from semiseg.data.stream.make_shards import make_shards
from semiseg.data.stream.shards import open_shards
from semiseg.data.tag_file import read_tags
from semiseg.errors import UserError
from semiseg.tools.serving.served_models import Networks
from semiseg.training.checkpoint import load_checkpoint, save_checkpoint
from semiseg.training.find_method import TRUSTED, find_method, trust
from trees import refused, write_lines

pytestmark = pytest.mark.slow  # whole commands, trainings or exports

OPTIONS: dict[str, Any] = {
    **{"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0, "steps": 1},
    **{"accelerator": "cpu", "labeled": "4"},
}


class Malicious:
    """An object that creates a directory when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    return semiseg.train("shapes:images=10,val=3,test=2,size=48", "supervised", out, **OPTIONS)


@pytest.fixture
def run(source: Path, tmp_path: Path) -> Path:
    """A copy of a run whose checkpoints may be damaged."""
    target = tmp_path / "run"
    for path in sorted(source.rglob("*")):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())
    return target


def damage(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    for name in ("last.pt", "best.pt"):
        state = load_checkpoint(run / "checkpoints" / name)
        change(state)
        save_checkpoint(run / "checkpoints" / name, state)


COMMANDS: dict[str, Callable[[Path], object]] = {
    "evaluate": lambda run: semiseg.evaluate(run, accelerator="cpu"),
    "predict": lambda run: semiseg.predict(run, run / "x.png", run / "masks", accelerator="cpu"),
    "export": lambda run: semiseg.export(run, out=run / "given"),
    "suggest": lambda run: semiseg.suggest(run, out=run / "next", accelerator="cpu"),
    "load": lambda run: semiseg.load(run / "checkpoints" / "best.pt", accelerator="cpu"),
    "serve": lambda run: Networks([str(run)], accelerator="cpu"),
    "resume": lambda run: semiseg.train(resume=run),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_code_in_a_checkpoint_does_not_run(run: Path, tmp_path: Path, legacy: bool) -> None:
    marker = tmp_path / "ran"
    for name in ("last.pt", "best.pt"):
        path = run / "checkpoints" / name
        state = torch.load(path, weights_only=True)
        torch.save(state | {"optimizer": Malicious(marker)}, path, _use_new_zipfile_serialization=not legacy)
    for call in COMMANDS.values():
        with refused(".pt: cannot be read as a checkpoint"):
            call(run)
        assert not marker.exists()


def test_code_in_a_weights_file_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for content in (Malicious(marker), {"conv1.weight": Malicious(marker)}):
        torch.save(content, tmp_path / "weights.pt")
        with refused("weights.pt: not a state dict that can be read safely"):
            semiseg.train("shapes:images=10,val=3,test=2,size=48", "supervised", tmp_path / "run",
                          **OPTIONS | {"weights": str(tmp_path / "weights.pt")})  # fmt: skip
    assert not marker.exists() and not (tmp_path / "run").exists()


def test_code_in_a_list_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "split_0.pkl").write_bytes(pickle.dumps([Malicious(marker)]))
    with refused("split_0.pkl: refused"):
        semiseg.train("shapes:images=10,val=3,test=2,size=48", "supervised", tmp_path / "run",
                      **OPTIONS | {"labeled": f"{tmp_path / 'split_0.pkl'}:4"})  # fmt: skip
    assert not marker.exists()


@pytest.fixture
def loaded_shard(tmp_path: Path) -> Path:
    """A shard whose images come with members that other readers of shards would unpickle; they create the file ran."""
    pytest.importorskip("webdataset")
    code = pickle.dumps(Malicious(tmp_path / "ran"))
    buffer = io.BytesIO()
    Image.new("RGB", (48, 48)).save(buffer, "PNG")
    members = {f"{key}.{ending}": code for key in "abcd" for ending in ("pkl", "pickle", "pyd", "pth", "pt", "cls")}
    members |= {f"{key}.png": buffer.getvalue() for key in "abcd"} | {"alone.pkl": code}
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "photos-000000.tar", "w") as tar:
        for name in sorted(members):
            info = tarfile.TarInfo(name)
            info.size = len(members[name])
            tar.addfile(info, io.BytesIO(members[name]))
    return tmp_path / "shards"


def test_code_in_a_shard_does_not_run(
    loaded_shard: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMISEG_CACHE", str(tmp_path / "cache"))
    assert make_shards(str(loaded_shard), tmp_path / "index")[0].endswith("4 images in 1 shards")
    (shard,) = semiseg.predict(run, loaded_shard, tmp_path / "masks", accelerator="cpu", devices=1)
    with tarfile.open(shard) as tar:
        assert tar.getnames() == [f"{key}.png" for key in "abcd"]
    data, options = "shapes:images=6,val=2,test=1,size=48", OPTIONS | {"workers": 1, "unlabeled": str(loaded_shard)}
    trained = semiseg.train(data, "mean-teacher", tmp_path / "trained", **options)
    assert (trained / "checkpoints" / "last.pt").is_file()
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Malicious(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # the code works


CODE = """
from pathlib import Path
from semiseg.methods.supervised import Supervised
Path({marker!r}).touch()
class Mine(Supervised): ...
"""


def test_code_named_by_a_run_runs_only_if_trusted(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, "")
    code, marker = tmp_path / "mine.py", tmp_path / "ran"
    code.write_text(CODE.format(marker=str(marker)))
    damage(run, lambda state: state["config"].update(method=f"{code}:Mine"))
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("method: supervised", f"method: {code}:Mine"))
    for call in COMMANDS.values():
        with refused(f"names code, {code}", f"If you trust the code, set {TRUSTED}={code}"):
            call(run)
        assert not marker.exists()


def test_trust_is_by_file_and_inherited_by_child_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, "")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "other"):
        (tmp_path / f"{name}.py").write_text(CODE.format(marker=str(tmp_path / f"{name}-ran")))
    trust("mine.py:Mine")
    assert find_method(f"{tmp_path}/mine.py:Mine", named_in=tmp_path / "x.pt").__name__ == "Mine"
    with refused("x.pt: names code, other.py"):
        find_method("other.py:Mine", named_in=tmp_path / "x.pt")
    assert not (tmp_path / "other-ran").exists()


def not_a_number(state: dict[str, Any]) -> None:
    next(value for value in state["method"].values() if value.is_floating_point())[...] = float("nan")


def infinite(state: dict[str, Any]) -> None:
    [value for value in state["method"].values() if value.is_floating_point()][-1].view(-1)[0] = float("inf")


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "NaN": (not_a_number, "contains NaN or infinity"),
    "infinity": (infinite, "contains NaN or infinity"),
    "tensors missing": (lambda state: state["method"].clear(), "do not fit the network"),
    "weights are a list": (lambda state: state.update(method=[1]), "not a checkpoint"),
    "configuration is a number": (lambda state: state.update(config=3), "not a checkpoint"),
    "no method": (lambda state: state["config"].pop("method"), "not a checkpoint"),
    "unknown method": (lambda state: state["config"].update(method="../x"), "unknown method"),
    "unknown network": (lambda state: state["config"].update(encoder="nowhere"), "nowhere"),
    "unknown option": (lambda state: state["config"].update(run_this="rm"), "unknown key 'run_this'"),
    "no classes": (lambda state: state.update(classes=[]), "not a checkpoint"),
    "classes are numbers": (lambda state: state.update(classes=[1] * 7), "not a checkpoint"),
    "duplicate classes": (lambda state: state.update(classes=["a"] * 7), "not a checkpoint"),
    "too few colors": (lambda state: state["palette"].pop(), "not a checkpoint"),
    "a color of 999": (lambda state: state["palette"].__setitem__(0, [999, 0, 0]), "not a checkpoint"),
    "step is text": (lambda state: state.update(step="7"), "not a checkpoint"),
    "best is empty": (lambda state: state.update(best={}), "not a checkpoint"),
}


def test_invalid_checkpoints_are_rejected(run: Path) -> None:
    path = run / "checkpoints" / "best.pt"
    original = path.read_bytes()
    for change, words in DAMAGED.values():
        state = load_checkpoint(path)
        change(state)
        save_checkpoint(path, state)
        with refused(words):
            semiseg.load(run, accelerator="cpu")
        path.write_bytes(original)


def test_resume_rejects_an_optimizer_that_does_not_fit(run: Path) -> None:
    path = run / "checkpoints" / "last.pt"
    state = load_checkpoint(path)
    next(iter(state["optimizer"]["state"].values()))["exp_avg"] = torch.zeros(1, 2, 3)
    save_checkpoint(path, state)
    with refused("last.pt: the optimizer state does not fit the network"):
        semiseg.train(resume=run)


def test_compressed_checkpoints_are_rejected(run: Path) -> None:
    path = run / "checkpoints" / "best.pt"
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content + bytes(1_000_000))
    with refused("best.pt: cannot be read as a checkpoint"):
        load_checkpoint(path)


def test_huge_values_are_shortened_in_messages() -> None:
    value: Any = "x"
    for _ in range(30):
        value = [value] * 10
    with pytest.raises(UserError) as caught:
        from_mapping((TrainConfig,), {"lr": value}, "x.pt")
    assert len(str(caught.value)) < 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x]\n" + "".join(f"{chr(b)}: &{chr(b)} [{', '.join([f'*{chr(b - 1)}'] * 9)}]\n" for b in range(98, 108)),
        "a: &a {x: y}\n"
        + "".join(f"{chr(b)}: &{chr(b)}\n  <<: [{', '.join([f'*{chr(b - 1)}'] * 9)}]\n" for b in range(98, 108)),
        "lr: !!python/object/apply:os.mkdir [ran]",
        "lr: " + "[" * 1500,
        "lr: " + "9" * 5000,
        "lr: 2001-99-99",
    ],
    ids=["aliases", "merges", "code", "deep", "long number", "not a date"],
)
def test_yaml_neither_runs_code_nor_fills_memory(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with refused("x.yaml: not valid YAML"):
        read_yaml(path)
    assert not (tmp_path / "ran").exists()
    path.write_text(
        "lr: &lr 0.1\nencoder_lr_factor: *lr\n" + "".join(f"k{i}: *lr\n" for i in range(MAX_YAML_ALIASES - 1))
    )
    assert read_yaml(path)["encoder_lr_factor"] == 0.1


@pytest.mark.parametrize(
    "line", ["../outside", "/etc/outside.png", "..\\outside.png", "C:\\photos\\outside.png", "a/../../outside.png"]
)
def test_names_in_lists_do_not_lead_out_of_the_data_set(tiny_folder: Path, line: str) -> None:
    (tiny_folder.parent / "outside.png").write_bytes(b"secret")
    path = write_lines(tiny_folder / "splits" / "val.txt", line)
    with refused("val.txt", "tiny"):
        read_list(path, FolderDataset(tiny_folder))
    write_lines(path, line.replace("outside", "val00000"))  # directories in front of a name are ignored
    dataset = FolderDataset(tiny_folder)
    assert dataset.image_path(read_list(path, dataset)[0]) == tiny_folder / "images" / "val00000.png"


def write_annotation(root: Path, form: str, image: str) -> Path:
    """Write one image and an annotation file that names another one. Return the file."""
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(root / "images" / "inside.png")
    corners = [[0, 0], [4, 0], [4, 4]]
    entry = {"id": 1, "file_name": image, "width": 9, "height": 9}
    outline = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[0, 0, 4, 0, 4, 4]]}
    shape = {"label": "a", "shape_type": "polygon", "points": corners}
    name, content = {
        "coco": ("x.json", {"images": [entry], "annotations": [outline], "categories": [{"id": 1, "name": "a"}]}),
        "labelme": ("x.json", {"shapes": [shape], "imagePath": image, "imageWidth": 9, "imageHeight": 9}),
        "cvat": ("x.xml", f'<annotations><version>1.1</version><image name="{image}" width="9" height="9">'
                          '<polygon label="a" points="0,0;4,0;4,4"/></image></annotations>'),
    }[form]  # fmt: skip
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return root / name


@pytest.mark.parametrize("form", ["coco", "labelme", "cvat"])
@pytest.mark.parametrize("image", ["../outside.png", "/{}/outside.png", "..\\outside.png", "images/../../outside.png"])
def test_annotation_files_do_not_lead_out_of_the_export(tmp_path: Path, form: str, image: str) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "outside.png")
    write_annotation(tmp_path / "data", form, image.format(tmp_path))
    with refused("outside.png"):
        semiseg.import_data(tmp_path / "data", tmp_path / "own", form=form)
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("form", ["coco", "labelme", "cvat"])
def test_large_annotation_files_are_refused(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_annotation(tmp_path / "data", form, "inside.png")
    assert semiseg.import_data(tmp_path / "data", tmp_path / "own", form=form).checked.masks == 1
    monkeypatch.setattr(source_files, "MAX_ANNOTATION_BYTES", file.stat().st_size - 1)
    with refused(file.name, "bytes, more than"):
        semiseg.import_data(tmp_path / "data", tmp_path / "other", form=form)


PIPES: dict[str, Callable[[Path], object]] = {
    "x.yaml": read_yaml,
    "split_0.pkl": read_permutation,
    "list.txt": read_lines,
    "palette.txt": read_palette,
    "tags.csv": lambda path: read_tags(path, ("a",), ("b",)),
    "index.json": lambda path: open_shards(str(path.parent)),
    "a.tar": lambda path: open_shards(str(path.parent)),
}


def test_named_pipes_do_not_block(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("blocked"))
    try:
        for name, read in PIPES.items():
            if name in ("index.json", "a.tar"):
                pytest.importorskip("webdataset")
            folder = tmp_path / name.replace(".", "-")
            folder.mkdir()
            os.mkfifo(folder / name)
            signal.alarm(20)
            with refused(name):
                read(folder / name)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_run_lengths_longer_than_the_image_are_rejected() -> None:
    for counts in ([10**12], [0, 10**18], [5, 10**9, 5], "o" * 1000):
        with pytest.raises(ValueError, match=r"run lengths"):
            counts_region(counts, [4, 5], 4, 5)
    for rle in ([255] * 40, [0] * 8, list((2**31).to_bytes(4)) + [60] * 40):
        with pytest.raises(ValueError, match=r"run lengths"):
            brush_region(rle, 4, 5)


def test_the_sources_use_no_shell_pickle_or_eval() -> None:
    root = Path(semiseg.__file__).parent
    wrong = r"shell\s*=\s*True|os\.system|os\.popen|getoutput|\beval\(['\"]|\bexec\(|yaml\.(full_|unsafe_)?load\(|"
    wrong += (
        r"pickle\.loads?\(|np\.load\((?!.*allow_pickle=False)|joblib|weights_only=False|autoescape=False|\|\s*safe\b"
    )
    own = {root / "training" / "distributed" / name for name in ("launch.py", "rank.py")}  # read files of their parent
    for path in {*root.rglob("*.py"), *root.rglob("*.jinja")} - own:
        found = [line for line in path.read_text().splitlines() if re.search(wrong, line)]
        assert not [line for line in found if "image.uri" not in line and "safe_load" not in line], (path, found)
    starts = re.compile(r"subprocess\.(run|call|check_\w+|Popen)\(|from subprocess")
    users = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if starts.search(path.read_text())}
    assert users <= {"tools/comparison/runner.py"}  # with a list of arguments
    for path in root.rglob("*.py"):
        text = path.read_text()
        assert text.count("torch.load(") == text.count("weights_only=True)"), path


def test_reports_escape_names(tiny_folder: Path, tmp_path: Path) -> None:
    classes = tiny_folder / "classes.json"
    content = json.loads(classes.read_text())
    content["classes"][1] = '<script>alert(1)</script>" onerror="x $\\frac{'
    classes.write_text(json.dumps(content))
    name = "<script>alert(1)<"
    for folder in ("images", "masks"):
        (tiny_folder / folder / "val00000.png").rename(tiny_folder / folder / f"{name}.png")
    (tiny_folder / "images" / "train00011.png").write_bytes(b"not a picture")
    write_lines(tiny_folder / "splits" / "val.txt", name, "val00001", "val00002")
    run = semiseg.train(tiny_folder, "mean-teacher", tmp_path / "run", **OPTIONS | {"steps": 4, "val_every": 4})
    semiseg.report([run, run], tmp_path / "several.html")
    for page in (run / "report.html", tmp_path / "several.html"):
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text and 'onerror="' not in text and "&lt;script&gt;" in text


def test_control_characters_do_not_break_the_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["semiseg", "train", "--data", "no\nwhere\x1b[31m"])
    assert cli.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
