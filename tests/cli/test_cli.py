"""The command line: invalid input is reported in one line with status 2, and nothing is overwritten."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from semiseg import cli
from semiseg.config import DeprecatedOption
from semiseg.data.importers import IMPORTERS
from semiseg.errors import Interrupted

pytestmark = pytest.mark.slow  # whole commands, trainings or exports

QUICK = (
    *("--encoder", "test_resnet", "--weights", "none", "--crop-size", "32"),
    *("--batch-size", "2", "--steps", "2", "--workers", "0"),
)
TRAIN = (*QUICK, "--accelerator", "cpu", "--labeled", "4")


class Result(NamedTuple):
    status: int
    out: str
    err: str


Call = Callable[..., Result]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line in this process."""

    def run(*argv: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["semiseg", *map(str, argv)])
        capsys.readouterr()
        status = cli.main()
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def trained(_tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, with its report."""
    import semiseg

    out = tmp_path_factory.mktemp("runs") / "run"
    options = {"crop_size": 32, "batch_size": 2, "steps": 2, "workers": 0, "accelerator": "cpu", "weights": "none"}
    return semiseg.train(_tiny_source, "dual-teacher", out, labeled="4", encoder="test_resnet", **options)


@pytest.fixture
def copy_of_run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def assert_refused(result: Result, pattern: str) -> None:
    """Expect status 2 and one line on stderr that contains the pattern, in any case of letters."""
    assert result.status == 2, result
    assert result.out == ""
    assert result.err.startswith("semiseg: ") and result.err.count("\n") == 1 and result.err.endswith("\n"), result.err
    assert re.search(pattern, result.err, re.IGNORECASE), result.err


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Invalid data


def change_mask(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    mask = Image.open(path)
    changed = Image.fromarray(change(np.array(mask)))
    changed.putpalette(mask.getpalette() or [])
    changed.save(path)


def paint(mask: np.ndarray) -> np.ndarray:
    mask[3, 4] = 77
    return mask


def no_masks(data: Path) -> None:
    shutil.rmtree(data / "masks")


def another_size(data: Path) -> None:
    change_mask(data / "masks" / "train00003.png", lambda mask: mask[:40])


def unknown_value(data: Path) -> None:
    change_mask(data / "masks" / "train00003.png", paint)


def unknown_value_in_val(data: Path) -> None:
    change_mask(data / "masks" / "val00001.png", paint)


def another_size_in_test(data: Path) -> None:
    change_mask(data / "masks" / "test00001.png", lambda mask: mask[:, :30])


def broken_image(data: Path) -> None:
    (data / "images" / "train00003.png").write_bytes(b"not a picture")


def cut_image(data: Path) -> None:
    path = data / "images" / "train00003.png"
    path.write_bytes(path.read_bytes()[:500])


def broken_mask(data: Path) -> None:
    (data / "masks" / "train00003.png").write_bytes(b"not a picture")


def no_images(data: Path) -> None:
    shutil.rmtree(data / "images")


def broken_classes(data: Path) -> None:
    (data / "classes.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "pattern"),
    [
        (no_masks, r"masks: none of 12 training images has a mask.*annotate"),
        (another_size, r"train00003\.png: .*48x40.*train00003\.png.*48x48"),
        (unknown_value, r"train00003\.png: .*value 77.* 7 classes"),
        (unknown_value_in_val, r"val00001\.png: .*value 77.* 7 classes"),
        (another_size_in_test, r"test00001\.png: .*30x48"),
        (broken_image, r"images.train00003\.png: .*cannot be read .*replace or remove it"),
        (cut_image, r"images.train00003\.png: .*cannot be read .*replace or remove it"),
        (broken_mask, r"masks.train00003\.png: .*cannot be read .*replace or remove it"),
        (no_images, r"found 18 masks in masks/.*add the photographs in images/"),
        (broken_classes, r"classes\.json: cannot be used"),
    ],
)
def test_train_rejects_invalid_data(
    call: Call, tiny_folder: Path, tmp_path: Path, spoil: Callable[[Path], None], pattern: str
) -> None:
    (tmp_path / "labels.txt").write_text("train00001\ntrain00003\ntrain00004\ntrain00005\n")
    spoil(tiny_folder)
    before, out = content(tiny_folder), tmp_path / "run"
    labeled = ("--labeled", tmp_path / "labels.txt")
    assert_refused(call("train", "--data", tiny_folder, "--out", out, *TRAIN, *labeled), pattern)
    assert not out.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.txt", "tiny"]  # no temporary files
    assert content(tiny_folder) == before


@pytest.mark.usefixtures("quick")
def test_masks_of_unlabeled_images_are_never_opened(call: Call, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("train00001\ntrain00002\n")
    broken_mask(tiny_folder)
    arguments = (*TRAIN, "--labeled", tmp_path / "labels.txt", "--steps", "1", "--val-every", "never")
    assert call("train", "--data", tiny_folder, "--out", tmp_path / "run", *arguments).status == 0


def test_train_rejects_a_missing_directory(call: Call, tmp_path: Path) -> None:
    result = call("train", "--data", tmp_path / "nowhere", "--out", tmp_path / "run", *TRAIN)
    assert_refused(result, "nowhere: .*images/ and masks/")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("quick")
def test_train_rejects_data_without_unlabeled_images(call: Call, tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ("--data", tiny_folder, "--out", tmp_path / "run", *QUICK, "--accelerator", "cpu")
    for method in ("dual-teacher", "mean-teacher", "cps"):
        result = call("train", *arguments, "--method", method)
        assert_refused(result, "no unlabeled images .*add images without masks.*--method supervised")
    assert not (tmp_path / "run").exists()
    assert call("train", *arguments, "--method", "supervised", "--val-every", "never").status == 0


def test_train_prints_the_result_and_next_steps(call: Call, trained: Path) -> None:
    result = call("train", "--resume", trained)  # already complete
    assert result.status == 0 and result.out == f"{trained}\n"
    assert re.search(r"student: mIoU \d+\.\d on val at step [12], \d+\.\d at the end\n", result.err)
    assert f"report: {trained / 'report.html'}\nnext: semiseg evaluate {trained}, or" in result.err


def test_train_rejects_one_labeled_image_without_val_list(call: Call, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(tiny_folder / "splits")
    for mask in sorted((tiny_folder / "masks").iterdir())[1:]:
        mask.unlink()
    result = call("train", "--data", tiny_folder, "--out", tmp_path / "run", *QUICK)
    assert_refused(result, "one labeled image .*training and validation.*annotate a second")


# Invalid options


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("--method", "dual-teachr"), "unknown method 'dual-teachr': did you mean dual-teacher"),
        (("--method",), "--method: its value is missing. Write --method VALUE"),
        (("--thresold", "0.9"), "unknown option --thresold: did you mean --threshold"),
        (("--method", "supervised", "--drop-path", "0.9"), "unknown option --drop-path"),
        (("--encoder", "resnet5"), "unknown encoder 'resnet5'.*did you mean"),
        (("--encoder", "vgg11"), "encoder 'vgg11' cannot be used|no residual b"),
        (("--architecture", "deeplabv3"), "unknown architecture 'deeplabv3'.*did you mean deeplabv3plus"),
        (("--preset", "smal"), "unknown preset 'smal': did you mean small"),
        (("--labeled", "99"), "--labeled.* 99 .* 12 training images"),
        (("--labeled", "no-such-list.txt"), "no-such-list.txt: no such file"),
        (("--unlabeled", "no-such-list.txt"), "no-such-list.txt: cannot be read .No such file.*Check the path"),
        (("--weights", "no-such-file.pt"), "no-such-file.pt: no such file.*imagenet, none, or a"),
        (("--steps", "many"), "--steps.*many"),
        (("--seed", "9e19"), r"semiseg: --seed: '9e19' is not an integer. Give an integer\.\n"),
        (("--lr", "high"), r"semiseg: --lr: 'high' is not a number. Give a number\.\n"),
        (("--steps", "5", "--epochs", "2"), "--steps: cannot be combined with --epochs"),
        (("--crop-size", "3"), r"--crop-size: 3 is out of range. Choose a value in \[16, 16384\]"),
        (("--devices", "0"), r"--devices: 0 is out of range. Choose a value in \[1, 4096\]"),
        (("--optimizer", "adam"), "invalid choice 'adam' for argument '--optimizer'.*'adamw', 'sgd'"),
        (("--threshold-mode", "pixels"), "invalid choice 'pixels'.* See semiseg train --help"),
        (("--pool", "cutmix", "cutmax"), "pool: .*'cutmax'.*cutmix, classmix"),
        (("--method", "mean-teacher", "--mixing", "cutmax"), "mixing: .*'cutmax'.*cutmix, classmix"),
        (("--teachers", "0"), "--teachers: 0 is out of range. Choose a value of at least 1. See"),
        (("--drop-path", "2"), r"drop-path.* in \[0, 1\]"),
        (("--method", "cps", "--unsupervised-weight", "-1"), "unsupervised-weight.* of at least 0"),
        (("--class-weights", "x"), "unknown option --class-weights: did you mean --class-balance"),
        (("--resume", "run"), "--resume: can be combined only with --devices, --nodes, --steps, --data, --unlabeled"),
    ],
)
def test_train_rejects_invalid_options(
    call: Call, _tiny_source: Path, tmp_path: Path, arguments: tuple[str, ...], pattern: str
) -> None:
    assert_refused(call("train", "--data", _tiny_source, "--out", tmp_path / "run", *TRAIN, *arguments), pattern)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("crop_siz: 32", "c.yaml: unknown key 'crop_siz': did you mean crop_size?"),
        ("mixing: cutmix", "c.yaml: unknown key 'mixing'"),  # an option of another method
        ("crop_size: large", "c.yaml: --crop-size: 'large' is not allowed. Give an integer"),
        ("pool: cutmix", "c.yaml: --pool: 'cutmix' is not allowed. Give a list .text."),
        ("method: dual", "unknown method 'dual'"),
        ("preset: tiny", "unknown preset 'tiny'"),
        ("- 1", "c.yaml: not a mapping of options to values. Write lines 'option: value'"),
        ("a: [", r"c.yaml: not valid YAML .*\. Correct the file"),
    ],
)
def test_train_rejects_invalid_configuration_files(call: Call, tmp_path: Path, text: str, pattern: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    arguments = ("train", "--data", "shapes", "--out", tmp_path / "run", "--config", tmp_path / "c.yaml")
    assert_refused(call(*arguments), pattern)
    if not text.startswith("method"):
        assert_refused(call(*arguments, "--method", "dual-teacher"), pattern)
    assert not (tmp_path / "run").exists()


def test_train_rejects_a_missing_configuration_file(call: Call, tmp_path: Path) -> None:
    result = call("train", "--data", "shapes", "--config", tmp_path / "none.yaml")
    assert_refused(result, r"none.yaml: cannot be read .*\. Check the path")


def test_train_needs_the_data_option(call: Call) -> None:
    assert_refused(call("train"), "--data.* missing.* a directory with images/ and masks/")


def test_errors_are_readable_on_a_terminal_without_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "utf-8"):
        monkeypatch.setattr(sys, "argv", ["semiseg", "evaluate", "run", "--split", "tests"])
        stdout, stderr = io.TextIOWrapper(io.BytesIO(), encoding=encoding), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            assert cli.main() == 2
        assert re.fullmatch(
            r"semiseg: invalid choice 'tests' for .*'--split'.* See semiseg evaluate --help\.\n",
            stderr.getvalue(),
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is available")
def test_train_rejects_a_missing_accelerator(call: Call, tmp_path: Path) -> None:
    result = call("train", "--data", "shapes", "--out", tmp_path / "run", "--accelerator", "cuda")
    assert_refused(result, "--accelerator")


# Invalid runs


def test_train_does_not_overwrite_a_run(call: Call, copy_of_run: Path, _tiny_source: Path) -> None:
    before = content(copy_of_run)
    result = call("train", "--data", _tiny_source, "--out", copy_of_run, *TRAIN)
    assert_refused(result, "copy.* exists.*choose another --out.*--resume .*copy")
    assert content(copy_of_run) == before


def test_train_does_not_overwrite_other_files(call: Call, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("...")
    for out in ("thesis", "thesis/chapter1.tex"):
        assert_refused(
            call("train", "--data", "shapes", "--out", tmp_path / out, *TRAIN), "exists.*choose another --out"
        )
    result = call(
        "train", "--data", "shapes:images=6,val=1,test=1,size=48", "--out", tmp_path / "thesis/chapter1.tex/a", *TRAIN
    )
    assert_refused(result, "cannot be written.*choose another --out")
    assert content(tmp_path) == {"thesis/chapter1.tex": b"..."}


def test_train_needs_a_directory_for_the_run(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an empty directory
    assert_refused(call("train", "--data", "shapes", "--out", ".", *TRAIN), "own directory. choose another --out")
    assert content(tmp_path) == {}


def test_missing_runs_and_checkpoints_are_reported(call: Call, tmp_path: Path) -> None:
    for command in (("train", "--resume"), ("report",)):
        assert_refused(call(*command, tmp_path / "nowhere"), "nowhere: not a run .*give a directory")
    for command in (("evaluate",), ("predict", "--out", "masks", "image.png")):
        result = call(command[0], tmp_path / "nowhere.pt", *command[1:])
        assert_refused(result, "nowhere.pt: no such checkpoint. check the path")


def test_weights_that_are_not_an_export_are_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"weights")
    for command in (("evaluate",), ("predict", "--out", "masks", "image.png")):
        result = call(command[0], tmp_path / "bad.safetensors", *command[1:])
        assert_refused(result, r"bad.safetensors: not an export of semiseg \(no config.json .*give a run")


def of_another_network(run: Path) -> None:
    for name in ("last.pt", "best.pt"):
        state = torch.load(run / "checkpoints" / name, weights_only=True)
        key = next(key for key in state["method"] if key.endswith("head.weight"))
        state["method"][key] = state["method"][key][:3]
        torch.save(state, run / "checkpoints" / name)


def of_another_run(run: Path) -> None:
    state = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    torch.save(state | {"config": state["config"] | {"seed": 5, "workers": 9}}, run / "checkpoints" / "last.pt")


def garbage(run: Path) -> None:
    for name in ("last.pt", "best.pt"):
        (run / "checkpoints" / name).write_bytes(b"garbage")


def cut_short(run: Path) -> None:
    for name in ("last.pt", "best.pt"):
        (run / "checkpoints" / name).write_bytes((run / "checkpoints" / name).read_bytes()[:10_000])


def something_else(run: Path) -> None:
    for name in ("last.pt", "best.pt"):
        torch.save({"format": 1, "weights": torch.zeros(3)}, run / "checkpoints" / name)


@pytest.mark.parametrize(
    ("spoil", "resuming", "evaluating"),
    [
        (of_another_network, "last.pt: .*another network", "best.pt: its weights do not fit the network"),
        (garbage, "last.pt: cannot be read as a checkpoint", "best.pt: cannot be read as a checkpoint"),
        (of_another_run, "last.pt: .*another run .*seed is 5 .*0", None),
        (cut_short, "last.pt: cannot be read as a checkpoint", "best.pt: cannot be read as a checkpoint"),
        (something_else, "last.pt: not a checkpoint of semiseg", "best.pt: not a checkpoint of semiseg"),
    ],
)
def test_invalid_checkpoints_are_reported(
    call: Call, copy_of_run: Path, spoil: Callable[[Path], None], resuming: str, evaluating: str | None
) -> None:
    spoil(copy_of_run)
    before = content(copy_of_run)
    before.pop("log.txt")
    assert_refused(call("train", "--resume", copy_of_run), resuming)
    if evaluating is not None:
        assert_refused(call("evaluate", copy_of_run), evaluating)
        assert_refused(call("predict", copy_of_run, "image.png", "--out", copy_of_run / "masks"), evaluating)
    after = content(copy_of_run)
    after.pop("log.txt")
    assert after == before


def test_resume_needs_the_optimizer_state(call: Call, copy_of_run: Path) -> None:
    shutil.copy(copy_of_run / "checkpoints" / "best.pt", copy_of_run / "checkpoints" / "last.pt")
    assert_refused(call("train", "--resume", copy_of_run), "last.pt: .*optimizer")


# Warnings


@pytest.mark.usefixtures("quick")
def test_train_warns_about_missing_classes_and_few_labels(call: Call, tiny_folder: Path, tmp_path: Path) -> None:
    for path in (tiny_folder / "masks").glob("train*.png"):
        change_mask(path, lambda mask: np.where(mask == 6, 0, mask).astype(np.uint8))
    out = tmp_path / "run"
    arguments = (*TRAIN, "--labeled", "3", "--batch-size", "4", "--steps", "1", "--val-every", "never")
    result = call("train", "--data", tiny_folder, "--out", out, *arguments)
    assert result.status == 0
    for text in (result.err, (out / "log.txt").read_text()):
        assert re.search("warning: no labeled pixel of .*ring", text)
        assert re.search("warning: 3 labeled images for batches of 4", text)


@pytest.mark.usefixtures("quick")
def test_train_warns_about_a_single_val_image(call: Call, tiny_folder: Path, tmp_path: Path) -> None:
    (tiny_folder / "splits" / "val.txt").write_text("val00001\n")
    out, arguments = tmp_path / "run", (*TRAIN, "--labeled", "2", "--steps", "1", "--val-every", "never")
    result = call("train", "--data", tiny_folder, "--out", out, *arguments)
    assert result.status == 0
    for text in (result.err, (out / "log.txt").read_text()):
        assert "warning: 1 val image: differences of mIoU are chance. List more in splits/val.txt.\n" in text


@pytest.mark.usefixtures("quick")
def test_train_accepts_aliases_of_methods(call: Call, _tiny_source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = (*TRAIN, "--steps", "1", "--val-every", "never", "--method", "cps", "--no-cutmix")
    assert call("train", "--data", _tiny_source, "--out", out, *arguments).status == 0
    text = (out / "config.yaml").read_text()
    assert "method: dual-student" in text and "cutmix: false" in text


@pytest.mark.usefixtures("quick")
def test_command_line_overrides_file_and_file_overrides_preset(call: Call, _tiny_source: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "preset: small\nlabeled: 5\nlr: 1e-3\ncrop-size: 48\nsteps: 7\nweights: none\nworkers: 0\nbatch_size: 1\n"
    )
    out = tmp_path / "run"
    arguments = ("--config", tmp_path / "c.yaml", "--steps", "1", "--val-every=never", "--accelerator", "cpu")
    assert call("train", "--data", _tiny_source, "--out", out, *arguments).status == 0
    text = (out / "config.yaml").read_text()
    for line in (
        "batchnorm: frozen-encoder",
        "labeled: '5'",
        "lr: 0.001",
        "crop_size: 48",
        "steps: 1",
        "burn_in: 0.3",
    ):
        assert line in text.splitlines()


@pytest.mark.usefixtures("quick")
def test_steps_on_the_command_line_override_epochs_in_the_file(call: Call, _tiny_source: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("epochs: 80\n")
    arguments = ("--data", _tiny_source, "--config", tmp_path / "c.yaml", "--out", tmp_path / "run", *TRAIN)
    assert call("train", *arguments, "--val-every", "never").status == 0
    assert {"steps: 2", "epochs: null"} <= set((tmp_path / "run" / "config.yaml").read_text().splitlines())
    arguments = ("--data", _tiny_source, "--config", tmp_path / "c.yaml", "--out", tmp_path / "other", *TRAIN)
    assert_refused(call("train", *arguments, "--epochs", "3"), "--steps: cannot be combined with --epochs")


# Other commands


def test_evaluate_json_prints_one_object_and_nothing_else(call: Call, trained: Path, _tiny_source: Path) -> None:
    result = call("evaluate", trained, "--data", _tiny_source, "--json", "--accelerator", "cpu")
    assert result.status == 0 and result.out.count("\n") == 1
    content = json.loads(result.out)
    assert {"split", "network", "miou", "pixel_accuracy", "iou", "networks"} <= content.keys()
    assert content["split"] == "test" and content["network"] == "student" and content["checkpoint"] == "best"
    assert list(content["networks"]) == ["student", "teacher1", "teacher2", "teachers-average"]
    assert list(content["networks"]["student"])[:3] == ["miou", "pixel_accuracy", "iou"]
    assert content["networks"]["student"].items() <= content.items()
    for name in ("dice", "precision", "recall", "boundary_iou"):
        assert content[name].keys() == content["iou"].keys()
        figures = [value for value in content[name].values() if value is not None]
        assert content[f"mean_{name}"] == pytest.approx(sum(figures) / len(figures))
    assert list(content["iou"]) == ["background", "circle", "square", "triangle", "star", "cross", "ring"]
    assert all(value is None or 0 <= value <= 100 for value in content["iou"].values())
    present = [value for value in content["iou"].values() if value is not None]
    assert content["miou"] == pytest.approx(sum(present) / len(present))


def test_evaluate_updates_the_report_of_the_run(call: Call, copy_of_run: Path) -> None:
    (copy_of_run / "evaluations.jsonl").unlink(missing_ok=True)
    call("report", copy_of_run)
    before = (copy_of_run / "report.html").read_text()
    result = call("evaluate", copy_of_run, "--json")
    after = (copy_of_run / "report.html").read_text()
    figure = f"{json.loads(result.out)['miou']:.1f} % on test with the same checkpoint"
    assert result.status == 0 and figure in after and "% on test" not in before


def test_evaluate_accepts_the_labeled_images(call: Call, trained: Path) -> None:
    result = call("evaluate", trained, "--split", "labeled", "--json")
    assert result.status == 0
    assert json.loads(result.out)["split"] == "labeled"


def test_evaluate_prints_a_table(call: Call, trained: Path) -> None:
    result = call("evaluate", trained, "--split", "val", "--network", "teachers-average", "--checkpoint", "last")
    assert result.status == 0
    assert re.search("student +teacher1 +teacher2 +teachers-average", result.out)
    lines = result.out.splitlines()
    assert len(lines) == (2 + 2 + 7) + (3 + 1 + 7)
    assert lines[12] == "teachers-average, in percent"
    assert lines[13].split() == ["dice", "precision", "recall", "boundary_iou"]
    assert [line.split()[0] for line in lines[14:16]] == ["mean", "background"]


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("--network", "teacher3"), "unknown network 'teacher3': did you mean teacher"),
        (("--data", "nowhere"), "nowhere: .*no such"),
        (("--split", "train"), "invalid choice 'train'"),
        (("--jsn",), "--jsn"),
    ],
)
def test_evaluate_rejects_invalid_options(call: Call, trained: Path, arguments: tuple[str, ...], pattern: str) -> None:
    assert_refused(call("evaluate", trained, *arguments), pattern)


def test_evaluate_rejects_other_classes_and_missing_lists(call: Call, trained: Path, tiny_folder: Path) -> None:
    other = tiny_folder / "images" / "val00000.png"
    other.rename(other.with_name("of another data set.png"))
    for name in ("test", "val"):
        (tiny_folder / "splits" / f"{name}.txt").unlink()
    assert_refused(call("evaluate", trained, "--data", tiny_folder), "no val list. add splits/val.txt")
    result = call("evaluate", trained, "--data", tiny_folder, "--split", "test")
    assert_refused(result, "no test list. add splits/test.txt or choose --split val")
    (tiny_folder / "classes.json").unlink()
    (tiny_folder / "classes.txt").write_text("a\nb\nc\nd\ne\nf\ng\n")
    assert_refused(call("evaluate", trained, "--data", tiny_folder), "its classes .* differ from those of the model")


@pytest.mark.usefixtures("quick")
def test_evaluate_accepts_a_later_test_list_without_training_images(
    call: Call, tiny_folder: Path, tmp_path: Path
) -> None:
    listed = tiny_folder / "splits" / "test.txt"
    names = listed.read_text().split()
    listed.unlink()
    for name in names:
        (tiny_folder / "images" / f"{name}.png").rename(tmp_path / f"{name}.png")
    assert call("train", "--data", tiny_folder, "--out", tmp_path / "run", *TRAIN).status == 0
    result = call("evaluate", tmp_path / "run", "--json")
    assert json.loads(result.out)["split"] == "val" and "no test list, using val" in result.err
    for name in names:
        (tmp_path / f"{name}.png").rename(tiny_folder / "images" / f"{name}.png")
    listed.write_text("\n".join(names))
    assert json.loads(call("evaluate", tmp_path / "run", "--json").out)["split"] == "test"
    learned = (tmp_path / "run" / "splits" / "labeled.txt").read_text().split()[0]
    (tiny_folder / "splits" / "train.txt").unlink()
    listed.write_text(learned)
    assert_refused(call("evaluate", tmp_path / "run"), f"test.txt: contains '{learned}', which this run was trained on")


@pytest.mark.usefixtures("quick")
def test_an_image_removed_after_training_is_reported(call: Call, tiny_folder: Path, tmp_path: Path) -> None:
    assert call("train", "--data", tiny_folder, "--out", tmp_path / "run", *TRAIN).status == 0
    gone = (tmp_path / "run" / "splits" / "unlabeled.txt").read_text().split()[0]
    for path in (tiny_folder / "splits" / "train.txt", tiny_folder / "images" / f"{gone}.png"):
        path.unlink()
    result = call("train", "--resume", tmp_path / "run")
    assert_refused(result, f"unlabeled.txt: .*'{gone}'.*add the image")
    assert call("evaluate", tmp_path / "run").status == 0  # needs no unlabeled images


def test_predict_writes_indexed_masks_at_the_size_of_the_images(call: Call, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (37, 53)), ("b.jpg", (80, 20))):
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(tmp_path / "photos" / name)
    Image.fromarray(rng.integers(0, 256, (9, 9), dtype=np.uint8)).save(tmp_path / "gray.png")
    out = tmp_path / "masks"
    arguments = (tmp_path / "photos", tmp_path / "gray.png", "--out", out, "--overlay", "--confidence")
    assert call("predict", trained, *arguments).status == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "confidence", "gray.png", "overlays"]
    for stem, size in (("a", (37, 53)), ("b", (80, 20)), ("gray", (9, 9))):
        mask = Image.open(out / f"{stem}.png")
        assert mask.mode == "P" and mask.size == size
        assert np.array(mask).max() < 7
        assert (mask.getpalette() or [])[:6] == [40, 40, 40, 228, 87, 86]  # of shapes: background, circle
        assert Image.open(out / "confidence" / f"{stem}.png").size == size
        overlay = Image.open(out / "overlays" / f"{stem}.png")  # with the legend below
        assert overlay.width == max(240, size[0]) and overlay.height > size[1]
    before = content(out)
    assert_refused(call("predict", trained, tmp_path / "photos", "--out", out), "a.png.* exists.*choose another --out")
    assert content(out) == before


def test_predict_rejects_invalid_input(call: Call, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "empty").mkdir()
    out = tmp_path / "masks"
    for image, pattern in (
        ("broken.png", "broken.png: .*cannot be read"),
        ("none.png", "none.png: no such file or directory"),
        ("empty", "empty: no images"),
    ):
        assert_refused(call("predict", trained, tmp_path / image, "--out", out), pattern)
    (tmp_path / "file").write_text("")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "tree" / "overlays").mkdir(parents=True)
    for name in ("a.png", "overlays/a.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / "tree" / name)
    twice = "overlays/a.png: .*two images"
    assert_refused(call("predict", trained, tmp_path / "tree", "--out", tmp_path / "new", "--overlay"), twice)
    assert not (tmp_path / "new").exists()
    assert_refused(call("predict", trained, tmp_path / "a.png", "--out", tmp_path / "file"), "file: cannot be written")


def test_list_commands(call: Call) -> None:
    result = call("methods")
    assert result.status == 0
    for name in ("supervised", "mean-teacher", "dual-student (cps)", "dual-teacher"):
        assert re.search(f"^{re.escape(name)}: ", result.out, re.MULTILINE)
    assert "--ema-reset shift" in result.out
    result = call("datasets")
    names = re.findall(r"^([\w-]+): \w", result.out, re.MULTILINE)
    benchmarks = ["camvid", "voc2012", "cityscapes", "ade20k"]
    assert result.status == 0 and names == ["folder", *benchmarks, "shapes", *IMPORTERS]
    assert "    leftImg8bit/{train,val,test}/CITY/ID_leftImg8bit.png" in result.out.splitlines()


def test_unknown_command(call: Call) -> None:
    assert_refused(call("trian"), "unknown command 'trian': did you mean train?")


def test_an_interrupted_comparison_explains_how_to_resume(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(argv: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "compare", interrupt)
    result = call("compare")
    assert result.status == 130 and "Run the same command again" in result.err and result.err.count("\n") == 1


def test_a_signal_determines_the_exit_status(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(argv: object) -> None:
        raise Interrupted("saved at step 7. Resume with ...", 143)

    monkeypatch.setitem(cli.COMMANDS, "train", stopped)
    result = call("train")
    assert (result.status, result.err) == (143, "semiseg: saved at step 7. Resume with ...\n")


# Processes


def process(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=240, env=environment)


@pytest.mark.slow
def test_help_and_version_do_not_import_torch() -> None:
    code = "import sys; from semiseg.cli import main; assert main() == 0; assert 'torch' not in sys.modules"
    for option, expected in (("--help", "usage: semiseg COMMAND"), ("--version", "semiseg 0.")):
        result = process("-c", code, option)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith(expected)


@pytest.mark.slow
def test_invalid_input_exits_with_status_2_and_one_line() -> None:
    result = process("-m", "semiseg", "trian", "--data", "nowhere")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "semiseg: unknown command 'trian': did you mean train?\n"


@pytest.mark.slow
def test_a_closed_pipe_is_not_an_error() -> None:
    command = [sys.executable, "-m", "semiseg.cli", "methods"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()  # before anything is written
        assert process.stderr.read() == ""
    assert process.returncode == 141  # not 0: the result of a check or training is unknown


def test_a_deprecated_option_prints_one_line() -> None:
    assert cli.format_warning(DeprecatedOption("--a is deprecated. Pass --b."), DeprecatedOption, "f", 1) == (
        "semiseg: --a is deprecated. Pass --b.\n"
    )
