"""Reports of runs and pictures of masks, from generated run directories."""

import base64
import io
import json
import math
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
import yaml

from semiseg.data.dataset import SegmentationDataset
from semiseg.errors import UserError
from semiseg.tools.report.gain import help_line
from semiseg.tools.report.multi_run_page import multi_run_page
from semiseg.tools.report.plots import compared_coupling, running_mean
from semiseg.tools.report.run_files import read_run
from semiseg.tools.report.run_findings import findings
from semiseg.tools.report.run_page import detail_table, run_page
from semiseg.tools.report.write_report import write_report
from semiseg.visualization import mask_pictures
from semiseg.visualization.run_pictures import LoadedRun

CLASSES = ("sky", "<script>alert(1)</script>", "a$b$c & d", "_hidden")
PALETTE = ((70, 130, 180), (200, 30, 30), (30, 160, 60), (240, 200, 20))
NETWORKS = {
    "supervised": ("student",),
    "mean-teacher": ("student", "teacher1"),
    "dual-student": ("student", "student2"),
    "dual-teacher": ("student", "teacher1", "teacher2", "teachers-average"),
}


def make_run(path, method="dual-teacher", classes=CLASSES, steps=600, level=50.0, seed=0, finals=True):
    """Write a run directory without training."""
    random = np.random.default_rng(seed)
    (path / "splits").mkdir(parents=True)
    for name, count in {"labeled": 23, "unlabeled": 344, "val": 101, "test": 233}.items():
        (path / "splits" / f"{name}.txt").write_text("".join(f"{name}_{i}\n" for i in range(count)))
    config = {"data": "data/camvid", "method": method, "labeled": "1/16", "steps": steps, "lr": 1e-3, "weights": "none"}
    options = {"ema_decay": 0.99, "threshold": 0.95, "threshold_mode": "pixel"}
    (path / "config.yaml").write_text(yaml.safe_dump(config | (options if method != "supervised" else {})))
    environment = {"command": "semiseg train --out <here>", "packages": {"torch": "2.15.0", "timm": "1.0"}, "cpus": 2}
    (path / "environment.json").write_text(json.dumps(environment))
    lines = []
    for step in range(10, steps + 1, 10):
        supervised = 1.5 * math.exp(-step / 200) + 0.2 + 0.05 * random.random()
        semi = method != "supervised" and step > steps // 4
        unsupervised = 0.4 + 0.1 * random.random() if semi else 0.0
        where = {"step": step, "epoch": step // 43, "time_s": step * 1.2}
        losses = {"loss": supervised + unsupervised, "loss/supervised": supervised, "loss/unsupervised": unsupervised}
        rest = {"loss/consistency": 0.0, "lr": 1e-3, "trusted_fraction": 0.8 * step / steps if semi else 0.0}
        lines.append(where | losses | rest | {"images_per_s": 11.5, "data_wait_fraction": 0.01})
        if step % (steps // 10) == 0:
            lines += [where | line for line in evaluation(method, "val", level * step / steps, classes, random)]
    best = max((line for line in lines if line.get("network") == "student"), key=lambda line: line["miou"])["step"]
    for checkpoint, split in (("best", "val"), ("last", "val"), ("best", "test")) if finals else ():
        step = best if checkpoint == "best" else steps
        where = {"step": step, "epoch": 9, "time_s": steps * 1.3, "checkpoint": checkpoint}
        lines += [where | line for line in evaluation(method, split, level, classes, random)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    counts = random.integers(0, 99, (len(classes), len(classes))) + 400 * np.eye(len(classes), dtype=int)
    counts[-1] = 0
    confusion = {"classes": classes, "network": "student", "split": "val", "counts": counts.tolist()}
    (path / "confusion.json").write_text(json.dumps(confusion))
    (path / "samples").mkdir()
    for step in (steps // 2, steps):
        noise = random.integers(0, 255, (200, 900, 3), dtype=np.uint8)
        PIL.Image.fromarray(noise).save(path / "samples" / f"{step:07d}_a.png")
    return path


def evaluation(method, split, level, classes, random):
    for index, network in enumerate(NETWORKS[method]):
        iou = {name: float(np.clip(level + random.normal(0, 9), 0, 100)) for name in classes[:-1]}
        line = {"split": split, "network": network, "miou": float(np.mean(list(iou.values()))), "pixel_accuracy": 80.0}
        line["iou"] = iou | {classes[-1]: None}
        if index and network != "teachers-average":
            line |= {
                "disagreement": 20 - level / 4 + index,
                "parameter_distance": 0.1 / (1 + level / 20) + 0.01 * index,
            }
        yield line


PREDICTED = ("truth", "prediction", "wrong", "confidence")


def write_samples(folder, names, pixels, **texts):
    """Write one picture for each name, as training does."""
    for name in names:
        mask_pictures.save_picture(PIL.Image.fromarray(pixels), folder / f"{name}.png", texts)


def write_classes(run, classes=CLASSES):
    colors = [[index % 256, 9, 9] for index in range(len(classes))]
    (run / "samples" / "classes.json").write_text(json.dumps({"classes": classes, "palette": colors}))


class Outline(HTMLParser):
    """Collects tags, links and text of a page."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.links, self.alts, self.open, self.text = [], [], [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for key, value in attrs if key in ("src", "href")]
        self.alts += [value for key, value in attrs if key == "alt"]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def outline_of(path):
    page = Path(path).read_text(encoding="utf-8")
    outline = Outline(page)
    assert outline.open == []
    assert all(link.startswith("data:image/") for link in outline.links), "the page must not need other files"
    assert "script" not in outline.tags
    assert len(outline.alts) == outline.tags.count("img") and all(outline.alts)
    levels = [int(tag[1]) for tag in outline.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(next_ <= level + 1 for level, next_ in pairwise(levels)), "a level of headings is missing"
    assert "viewport" in page and len(page) < 5_000_000
    for link in outline.links:
        PIL.Image.open(io.BytesIO(base64.b64decode(link.split(",", 1)[1]))).verify()
    return outline


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = make_run(tmp_path_factory.mktemp("runs") / "dual-teacher")
    write_report([path], None)
    return path


def test_page_of_one_run_has_figures_and_plots(run):
    outline = outline_of(run / "report.html")
    for expected in ("dual-teacher", "data/camvid", "23 labeled", "teachers-average", "% mIoU on val", "ema_decay"):
        assert expected in outline.text
    assert CLASSES[1] in outline.text  # escaped
    plots = {"miou.png", "losses.png", "trusted.png", "coupling.png", "confusion.png"}
    assert {path.name for path in (run / "plots").iterdir()} == plots
    assert len(outline.links) == len(plots)  # including the last sample; the confusion matrix is a table
    assert "true class, predicted as" in outline.text and "The largest confusions" in outline.text


def test_page_shows_figures_of_metrics_file(run):
    files = read_run(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [line for line in lines if line.get("network") == "student" and "checkpoint" not in line]
    best = max(curve, key=lambda line: line["miou"])
    test = next(line for line in lines if line.get("split") == "test" and line["network"] == "student")
    score = files.scores[0]
    assert (score.network, score.highest, score.highest_step) == ("student", best["miou"], best["step"])
    assert score.test == test["miou"]
    text = outline_of(run / "report.html").text
    assert f"{score.test:.1f} % on test" in text
    assert f"{test['iou']['sky']:.1f}" in text


def test_out_names_page_or_directory_and_page_is_replaced(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().splitlines()[0])
    small = tmp_path / "run"
    assert write_report([small], tmp_path / "page.html") == tmp_path / "page.html"
    assert write_report([small], tmp_path / "folder") == tmp_path / "folder" / "report.html"
    for _ in range(2):
        assert write_report([small], None) == small / "report.html"
    assert not list(tmp_path.rglob("*.tmp"))


def test_missing_and_truncated_files_are_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    assert "has not been evaluated" in outline_of(write_report([tmp_path], None)).text
    run = make_run(tmp_path / "run", "supervised", finals=False)
    for name in ("config.yaml", "environment.json", "confusion.json"):
        (run / name).unlink()
    for name in ("samples/0000600_a.png", "samples/0000300_a.png"):
        (run / name).write_bytes(b"cut short")
    outline = outline_of(write_report([run], None))
    assert "Teacher-student" not in outline.text and "Samples" not in outline.text and "trusted" not in outline.text
    assert {path.name for path in (run / "plots").iterdir()} == {"miou.png", "losses.png"}


def test_page_shows_predictions_and_pseudo_labels(tmp_path):
    run = make_run(tmp_path / "run", "supervised", steps=100)
    noise = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    write_samples(run / "samples" / "val" / "best-1", ("image", *PREDICTED), noise, id="city/<b>one</b>", miou="71.5")
    write_samples(run / "samples" / "val" / "worst-1", ("image", *PREDICTED), noise, id='two"x', miou="3.0")
    strip = run / "samples" / "pseudo-labels" / "1_three"
    write_samples(strip, ("image",), noise, id="three")
    for step, teacher, trusted in ((50, "teacher1", "12.5"), (100, "teacher2", "60.0")):
        write_samples(strip, (f"{step:07d}_{teacher}",), noise, trusted=trusted)
    write_classes(run)
    outline = outline_of(write_report([run], None))
    for expected in ("Best: city/<b>one</b>, mIoU 71.5 %", 'Worst: two"x, mIoU 3.0 %', "errors in red", "three"):
        assert expected in outline.text
    times = ["step 50, teacher1, 12.5 % trusted", "step 100, teacher2, 60.0 % trusted"]
    assert outline.text.index(times[0]) < outline.text.index(times[1])
    assert "b" not in outline.tags and 'two"x: prediction' in outline.alts
    for path in (strip / "0000050_teacher1.png", run / "samples" / "val" / "best-1" / "image.png"):
        path.write_bytes(path.read_bytes()[:60])
    (run / "samples" / "val" / "worst-1" / "truth.png").unlink()
    (run / "samples" / "classes.json").write_text("{")
    outline = outline_of(write_report([run], None))
    assert times[0] not in outline.text and times[1] in outline.text and "Best: best-1" in outline.text


def test_findings_warn_about_problems_only(tmp_path):
    sound = make_run(tmp_path / "a" / "run", "dual-teacher", level=60)
    assert not [
        finding for finding in findings(read_run(sound)) if finding.warning and "Val contains no" not in finding.text
    ]
    run = make_run(tmp_path / "b" / "run", "dual-teacher", level=60)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line |= {"trusted_fraction": 0.01, "data_wait_fraction": 0.6} if "loss" in line else {}
        line |= {"disagreement": 0.2} if "disagreement" in line else {}
        line |= {"miou": line["miou"] - 30} if line.get("split") == "val" and line["step"] == 600 else {}
        line |= {"loss/supervised": 0.01} if "loss" in line and line["step"] > 540 else {}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = json.loads((run / "confusion.json").read_text())
    content["counts"] = [[0 if column == 1 else value for column, value in enumerate(row)] for row in content["counts"]]
    (run / "confusion.json").write_text(json.dumps(content))
    (run / "splits" / "val.txt").write_text("one\ntwo\n")
    warnings = [finding for finding in findings(read_run(run)) if finding.warning]
    assert not any("two teachers (dual-teacher)" in finding.advice for finding in warnings)
    text = " ".join(finding.text for finding in warnings)
    for expected in (
        f"Never predicted on val: {CLASSES[1]}",
        "only 1.0 % of the pseudo-labels were trusted",
        "became too similar",
        "overfits its labels",
        "mIoU on val fell from",
        "Val has only 2 images",
        "60 % of its time waiting for images",
    ):
        assert expected in text
    assert CLASSES[1] in outline_of(write_report([run], None)).text


def test_finding_warns_if_more_pixels_are_trusted_than_correct(tmp_path):
    run = make_run(tmp_path / "run")
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace('"pixel_accuracy": 80.0', '"pixel_accuracy": 55.0'))
    (text,) = [finding.text for finding in findings(read_run(run)) if "its own mistakes" in finding.text]
    assert "only 55 % of the predictions on val are correct" in text
    config = (run / "config.yaml").read_text()
    for other in (
        config.replace("threshold_mode: pixel", "threshold_mode: none"),
        config.replace("threshold: 0.95", ""),
    ):
        (run / "config.yaml").write_text(other)  # every pixel is used, so there is no threshold to change
        assert "trusted" not in " ".join(finding.text for finding in findings(read_run(run)))


def test_gain_needs_complete_supervised_run_with_same_lists(tmp_path):
    run = make_run(tmp_path / "semi", "dual-teacher", level=60)
    make_run(tmp_path / "labels", "supervised", level=50)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.yaml").write_text("method: supervised\n[")

    def gain():
        (text,) = [finding.text for finding in findings(read_run(run)) if "supervised" in finding.text]
        return text

    ours, theirs = (read_run(tmp_path / name).scores[0].test for name in ("semi", "labels"))
    figures = (
        f"{ours - theirs:+.1f} mIoU on test (one run each). Supervised training reached {theirs:.1f} % (run labels)."
    )
    question = "Did the unlabeled images help here?"
    assert run_page(read_run(run)).summary.startswith(f"{question} Probably: {figures} The student")
    files = [read_run(tmp_path / name) for name in ("semi", "labels")]
    page = multi_run_page(files, tmp_path, None)
    assert page.summary.startswith(f"{question} Probably: ") and not page.findings
    assert gain().startswith(f"mIoU on test: {ours - theirs:+.1f} points over supervised training (run labels, ")
    metrics = tmp_path / "labels" / "metrics.jsonl"
    complete = metrics.read_text()
    metrics.write_text("".join(line for line in complete.splitlines(True) if json.loads(line)["step"] < 400))
    assert "unknown" in gain()
    metrics.write_text(complete)
    (tmp_path / "labels" / "splits" / "labeled.txt").write_text("others\n")
    assert "unknown" in gain()
    assert "Unknown: the directory has no comparable supervised run." in run_page(read_run(run)).summary


def rewrite(run, change):
    """Change every line of metrics.jsonl."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line | change(line)) + "\n" for line in lines))


def test_gain_on_few_images_or_within_the_margin_cannot_be_told(tmp_path):
    runs = [make_run(tmp_path / name, name) for name in ("dual-teacher", "supervised")]

    def answers(points, images):
        for run, miou in zip(runs, (50 + points, 50), strict=True):
            (run / "splits" / "test.txt").write_text("".join(f"{i}\n" for i in range(images)))
            rewrite(run, lambda line, miou=miou: {"miou": miou} if line.get("split") == "test" else {})
        files = [read_run(run) for run in runs]
        (finding,) = [found for found in findings(files[0]) if "over supervised" in found.text]
        return help_line(files[0]).partition("? ")[2].partition(" Supervised training")[0], finding

    answer, finding = answers(4.5, 2)
    assert answer == "Cannot be told: +4.5 mIoU on test, but test has only 2 images."
    assert finding.text.endswith("(run supervised, 50.0 %), but test has only 2 images.") and not finding.warning
    answer, finding = answers(-1.9, 233)  # the margin is at least 2 points
    assert answer == "Cannot be told: -1.9 mIoU on test, but one run each does not show a difference of this size."
    assert not finding.warning
    assert answers(2.2, 20)[0].startswith("Cannot be told")  # 10 / sqrt(20) is 2.24
    assert answers(2.3, 20)[0] == "Probably: +2.3 mIoU on test (one run each)."
    answer, finding = answers(-8.1, 233)
    assert answer == "Probably not: -8.1 mIoU on test (one run each)." and finding.warning
    for run in runs:
        (run / "splits" / "val.txt").write_text("one\ntwo\n")
    rewrite(runs[0], lambda line: {"unlabeled_factor": 0.0} if "loss" in line else {})
    page = multi_run_page([read_run(run) for run in runs], tmp_path, None)
    assert "(one run each). The safeguard left the unlabeled images out at the end. Supervised" in page.summary
    assert [found.text for found in page.findings] == [
        "Val has only 2 images: differences of a few points of mIoU on it are chance."
    ]


def test_small_differences_on_val_are_not_reported(tmp_path):
    run = make_run(tmp_path / "run", "mean-teacher")

    def texts(fall, better, images):
        (run / "splits" / "val.txt").write_text("".join(f"{i}\n" for i in range(images)))

        def change(line):
            if line.get("split") != "val":
                return {}
            return {
                "miou": 60 - (fall if line["step"] == 600 else 0) + (better if line["network"] == "teacher1" else 0)
            }

        rewrite(run, change)
        found = findings(read_run(run))
        return " ".join(f"{one.text} {one.advice}" for one in found)

    assert "fell from" not in texts(2.5, 1.9, 9) and "better on val" not in texts(2.5, 1.9, 9)
    assert "better on val" not in texts(0, 1.9, 101) and "better on val" not in texts(0, 6, 2)
    text = texts(2.5, 2.1, 101)
    assert "mIoU on val fell from 60.0 % at step 60 to 57.5 %" in text and "a higher --threshold" in text
    assert "teacher1 is 2.1 points better on val than student. Use it with --network teacher1." in text


def test_threshold_is_left_out_where_the_run_uses_none(tmp_path):
    run = make_run(tmp_path / "run")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("threshold_mode: pixel", "threshold_mode: none"))
    rewrite(run, lambda line: {"miou": 60.0 if line["step"] < 600 else 40.0} if line.get("split") == "val" else {})
    text = outline_of(write_report([run], None)).text
    assert "fell from" in text and "--threshold" not in text and "pass the threshold" not in text
    assert not (run / "plots" / "trusted.png").exists()


def test_command_of_missing_supervised_run_is_printed(tmp_path):
    run = make_run(tmp_path / "my runs" / "semi")
    assert help_line(read_run(run)).endswith('Train one with "semiseg compare --data data/camvid --steps 600".')
    lines = [{"values": {"lr": 1e-3, "weights": "none", "threshold": 0.95}}, {"values": {"labeled": None}}]
    (run / "plan.json").write_text(json.dumps({"lines": lines, "given": {"weights": "default"}}))
    command = "semiseg train --data data/camvid --method supervised --steps 600 --labeled 1/16 --weights none --out "

    def advice():
        (found,) = [found for found in findings(read_run(run)) if "The gain from" in found.text]
        return found.text, found.advice

    assert advice()[1] == f"Train one: {command}'{tmp_path}/my runs/supervised'"
    other = make_run(tmp_path / "my runs" / "supervised", "supervised", steps=100)
    text, command_ = advice()
    reason = "Run supervised does not compare: it has trained for 100 steps, this run for 600."
    assert text.endswith(f"no comparable supervised run. {reason}")
    assert command_ == f"Train one: {command}'{tmp_path}/my runs/supervised-600-steps'"
    assert reason in help_line(read_run(run))
    shutil.rmtree(other)
    make_run(other, "supervised")
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("lr: 0.001", "lr: 0.1"))
    assert "does not compare: it has another --lr." in advice()[0]


def test_safeguard_is_reported(tmp_path):
    run = make_run(tmp_path / "run", "dual-teacher")

    def texts():
        return " ".join(finding.text for finding in findings(read_run(run)))

    assert "lost weight" not in texts()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if "loss" in line:
            line["unlabeled_factor"] = 1.0 if line["step"] < 100 else 0.0
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "lost weight from step 100 on and were left out at the end" in texts()
    with (run / "config.yaml").open("a") as config:
        config.write("burn_in: 1.0\n")
    assert "The best checkpoint is from the burn-in" in texts()


def test_interrupted_and_resumed_run_is_read(tmp_path):
    run = make_run(tmp_path / "run", "supervised", finals=False, steps=100)
    text = (run / "metrics.jsonl").read_text()
    line = {"step": 100, "split": "val", "network": "student", "miou": 99.0, "pixel_accuracy": None, "iou": {}}
    (run / "metrics.jsonl").write_text(text + json.dumps(line) + '\n{"step": 610, "loss": NaN}\n{"step": 620, "los')
    files = read_run(run)
    assert files.scores[0].highest == 99.0 and files.training[-1]["step"] == 610
    outline_of(write_report([run], None))


def test_evaluations_after_training_are_read(tmp_path):
    run = make_run(tmp_path / "run", "supervised", finals=False)
    figures = {"miou": 43.21, "pixel_accuracy": 80.0, "iou": {"sky": 43.21}}
    entry = {"split": "test", "network": "student", "checkpoint": "best", "step": 600, "networks": {"student": figures}}
    other = entry | {"data": "elsewhere", "networks": {"student": figures | {"miou": 1.0}}}
    entries = [entry | {"data": "data/camvid"}, other]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert read_run(run).scores[0].test == 43.21
    cell = {
        "split": "test",
        "val": 50.0,
        "best": entry | {"networks": {"student": figures | {"miou": 43.0}}},
        "last": None,
    }
    (run / "evaluation.json").write_text(json.dumps(cell))  # of a comparison
    (run / "evaluations.jsonl").unlink()
    assert read_run(run).scores[0].test == 43.0
    assert "43.0 % on test" in outline_of(write_report([run], None)).text
    (run / "evaluation.json").unlink()
    stale = entries[0] | {"step": 480}  # evaluated before a resume: the best checkpoint has changed
    (run / "evaluations.jsonl").write_text(json.dumps(stale) + "\n")
    assert read_run(run).scores[0].test is None


def test_page_with_many_classes_and_large_samples_is_small(tmp_path):
    run = make_run(tmp_path / "run", "supervised", classes=tuple(f"class number {i}" for i in range(150)), steps=100)
    noise = np.random.default_rng(0).integers(0, 255, (400, 800, 3), dtype=np.uint8)
    for index in range(5):
        PIL.Image.fromarray(noise).save(run / "samples" / f"0000100_{index}.png", compress_level=1)
    for group in ("best", "worst", "random"):
        for number in (1, 2, 3):
            write_samples(run / "samples" / "val" / f"{group}-{number}", ("image", *PREDICTED), noise[:160, :240])
    for number in (1, 2, 3):
        names = [f"{step:07d}_teacher1" for step in range(10, 160, 10)]
        write_samples(run / "samples" / "pseudo-labels" / f"{number}_x", ("image", *names), noise[:120, :120])
    write_classes(run, tuple(f"class number {i}" for i in range(150)))
    outline = outline_of(write_report([run], None))
    assert outline.tags.count("img") == 3 + 4 + 9 * 5 + 3 * (1 + 12)  # a large matrix is a picture
    assert "class number 149" in outline.text and "true class, predicted as" not in outline.text


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_report_fails_for_directory_that_is_not_a_run(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"{name}: not a run"):
        write_report([tmp_path / name], None)
    with pytest.raises(UserError, match="no run"):
        write_report([], None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("steps: many", "--steps: 'many' is not allowed. Give an integer or null."),
        ("method: [a]", "--method: ['a'] is not allowed. Give text."),
        ("batch_size: 0", "--batch-size: 0 is out of range. Choose a value of at least 1."),
    ],
)
def test_report_fails_for_an_invalid_configuration(tmp_path, line, message):
    path = make_run(tmp_path / "run") / "config.yaml"
    path.write_text(path.read_text() + f"{line}\n")
    with pytest.raises(UserError) as error:
        write_report([tmp_path / "run"])
    assert str(error.value) == f"{path}: {message}"
    assert not (tmp_path / "run" / "report.html").exists()


def test_report_fails_if_out_cannot_be_written(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot be written"):
        write_report([tmp_path], tmp_path / "file" / "report.html")
    assert (tmp_path / "file").read_text() == "kept"


def test_report_does_not_overwrite_other_pages(run, tmp_path):
    notes = tmp_path / "notes.html"
    notes.write_text("<title>Notes</title>")
    for out in (notes, notes.rename(tmp_path / "report.html").parent):
        (tmp_path / "notes.html").write_text("<title>Notes</title>")
        with pytest.raises(UserError, match="exists and is not a report of semiseg"):
            write_report([run], out)
    assert {path.read_text() for path in tmp_path.glob("*.html")} == {"<title>Notes</title>"}


MALFORMED = {
    "confusion.json": [
        '{"classes": ["a", "b"], "counts": [["x", "y"], [1, 2]]}',
        '{"classes": 3, "counts": [[1]]}',
        "[]",
    ],
    "metrics.jsonl": [
        '{"step": 700, "split": "val", "network": ["x"], "miou": 3, "iou": {}}',
        '{"step": 700, "split": "val", "network": "student", "miou": "high", "iou": {}}',
        '{"step": 700, "split": "val", "network": "student", "miou": 3, "iou": [1]}',
        '{"step": 700, "split": {}, "network": "student", "miou": 3}',
        '{"step": 700, "loss": "none", "lr": []}',
        "[1]",
    ],
    "evaluations.jsonl": [
        '{"data": "data/camvid", "checkpoint": "best", "split": "test", "step": 600, "networks": [1]}',
        '{"data": "data/camvid", "checkpoint": "best", "split": "test", "step": 600, "networks": {"student": 1}}',
    ],
    "splits/shards.json": ['{"shardlist": 3}', '{"shardlist": [{"nsamples": "many"}]}', "{}"],
    "environment.json": ["[]", '{"packages": [1, {"a": null}]}'],
    "evaluation.json": ['{"best": {"networks": 3, "checkpoint": "best", "split": "val"}}'],
}


def test_malformed_files_are_left_out(tmp_path):
    run = make_run(tmp_path / "run", "supervised")
    (run / "splits" / "val.txt").write_bytes("gärten\n".encode("latin-1") * 101)
    kept = {name: (run / name).read_text() if (run / name).is_file() else "" for name in MALFORMED}
    for name, texts in MALFORMED.items():
        for text in texts:
            (run / name).write_text((kept[name] + text + "\n") if name.endswith("jsonl") else text)
            read_run(run)
    assert "val has 101 images" in outline_of(write_report([run], None)).text
    (run / "metrics.jsonl").write_text(kept["metrics.jsonl"] + "\n".join(MALFORMED["metrics.jsonl"]))
    (run / "confusion.json").write_text(MALFORMED["confusion.json"][0])
    assert "Confusion" not in outline_of(write_report([run], None)).text


class Squares(SegmentationDataset):
    """Images with one bright square."""

    name, root, classes, palette = "squares", None, CLASSES, PALETTE
    ids = tuple(f"image{i}" for i in range(10))

    def read_image(self, id):
        return (self.read_mask(id) % 255 * 60 + 20).repeat(3, 1, 1)

    def read_mask(self, id):
        mask = torch.zeros(40, 60, dtype=torch.uint8)
        mask[5:25, 4 * self.ids.index(id) : 4 * self.ids.index(id) + 20] = 1 + self.ids.index(id) % 3
        mask[:3] = 255
        return mask

    def has_mask(self, id):
        return True


def loader(path, **changes):
    fields = {
        "predict": lambda image: (image[0] > 50).long(),
        "dataset": Squares(),
        "ids": Squares.ids[2:] if "teacher" in path.name else Squares.ids[:8],
        "classes": CLASSES,
        "palette": PALETTE,
    }
    return LoadedRun(**(fields | changes))


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    return [make_run(folder / name, name, level=40 + 4 * i, seed=i) for i, name in enumerate(NETWORKS)]


def test_page_of_several_runs_has_pictures_and_differences(several, tmp_path):
    outline = outline_of(write_report(several, tmp_path / "page.html", load_run=loader))
    for expected in (*NETWORKS, "Differences", "image2", "mIoU on test: supervised"):
        assert expected in outline.text
    assert "image9" not in outline.text and "image1," not in outline.text  # not in every run's list
    picture = PIL.Image.open(tmp_path / "pictures.png")
    assert picture.width == 6 * (320 + mask_pictures.GAP) + mask_pictures.GAP  # image, four runs, ground truth
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"compared-miou.png", "compared-coupling.png"}


def test_coupling_plots_of_several_runs_share_their_scale(several):
    figure = compared_coupling({path.name: read_run(path) for path in several})
    assert [axes.get_title() for axes in figure.axes[:3]] == ["mean-teacher", "dual-student", "dual-teacher"]
    for row, scale in (
        (figure.axes[:3], "linear"),
        (figure.axes[3:], "log"),
    ):  # parameter distances differ by orders of magnitude
        highest = max(line.get_ydata().max() for axes in row for line in axes.lines)
        assert all(axes.get_yscale() == scale and axes.get_ylim()[1] >= highest for axes in row)
        assert len({axes.get_ylim() for axes in row}) == 1
        assert scale == "log" or row[0].get_ylim()[0] == 0


def test_runs_of_one_method_are_named_by_directory(tmp_path):
    runs = [make_run(tmp_path / name, "supervised", steps=100) for name in ("few-labels", "all-labels")]
    runs.append(make_run(tmp_path / "third", "dual-teacher", steps=100))
    text = outline_of(write_report(runs, None)).text
    assert "few-labels · all-labels · dual-teacher" in text
    assert (tmp_path / "report.html").exists() and "were not loaded" in text


def test_runs_with_different_classes_get_tables_of_their_own(several, tmp_path, caplog):
    other = make_run(tmp_path / "other", "supervised", classes=("sky", "road"))
    page = write_report([several[1], other], tmp_path / "page.html", load_run=loader)
    text = outline_of(page).text
    assert "mean-teacher and supervised have different classes (sky, " in text and "Not all of these" in caplog.text
    assert "Results: mean-teacher" in text and "Results: supervised" in text and "Classes: supervised" in text
    mixed = write_report(
        several[:2],
        tmp_path / "mixed.html",
        load_run=lambda path: loader(path, classes=CLASSES if path == several[0] else CLASSES[::-1]),
    )
    assert "No pictures: supervised and mean-teacher have different classes" in outline_of(mixed).text


def test_figures_of_different_val_images_are_not_in_one_table(tmp_path):
    runs = [make_run(tmp_path / name, "supervised", steps=100) for name in ("first", "second", "third")]
    with (runs[2] / "splits" / "val.txt").open("a") as file:
        file.write("added\n")
    (runs[1] / "splits" / "test.txt").unlink()  # it may be added later
    outline = outline_of(write_report(runs, tmp_path / "page.html"))
    note = "first and third have different val images (101 and 102, 101 in common)"
    assert note in outline.text and outline.text.index(note) < outline.text.index("Results: ")
    assert "Results: first, second" in outline.text and "Results: third" in outline.text
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"group-1", "group-2"}
    same = outline_of(write_report(runs[:2], tmp_path / "same.html")).text
    assert "Not all" not in same and "Results: " not in same


def test_limited_validation_is_on_other_images(tmp_path):
    runs = [make_run(tmp_path / name, "supervised", steps=100) for name in ("whole", "limited")]
    with (runs[1] / "config.yaml").open("a") as file:
        file.write("val_limit: 50\n")
    assert "different val images (101 and 50, 50 in common)" in outline_of(write_report(runs, tmp_path / "p.html")).text


def test_page_explains_missing_pictures(tmp_path, caplog):
    several = [make_run(tmp_path / name, "supervised", steps=100) for name in ("one", "two")]

    def missing(path):
        raise UserError("data/camvid: no such directory")

    assert "No pictures: data/camvid" in outline_of(write_report(several, tmp_path / "a.html", load_run=missing)).text
    assert "has no pictures" in caplog.text

    def moved(path):
        return missing(path) if path.name == "two" else loader(path)

    text = outline_of(write_report(several, tmp_path / "c.html", load_run=moved)).text
    assert "Without two: data/camvid: no such directory" in text and "Image, each run, ground truth" in text
    assert "no pictures of two" in caplog.text
    text = outline_of(
        write_report(several, tmp_path / "b.html", load_run=lambda path: loader(path, ids=(path.name,)))
    ).text
    assert "no val or test image in common" in text


def test_indexed_png_has_classes_and_palette(tmp_path):
    mask = torch.tensor([[0, 1, 2], [3, 255, 0]], dtype=torch.uint8)
    mask_pictures.save_indexed_png(mask, PALETTE, tmp_path / "new" / "mask.png")
    picture = PIL.Image.open(tmp_path / "new" / "mask.png")
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), mask.numpy())
    colors = np.asarray(picture.convert("RGB"))
    assert tuple(colors[0, 1]) == PALETTE[1] and tuple(colors[1, 1]) == mask_pictures.IGNORE_COLOR
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mask.png"]


@pytest.mark.parametrize("shape", [(1, 1), (3, 500)])
def test_indexed_png_with_one_class_keeps_its_value(tmp_path, shape):
    mask_pictures.save_indexed_png(torch.full(shape, 7, dtype=torch.int64), PALETTE * 3, tmp_path / "mask.png")
    assert (np.asarray(PIL.Image.open(tmp_path / "mask.png")) == 7).all()


def test_report_shows_dice_precision_recall_and_boundary_iou(tmp_path):
    run = make_run(tmp_path / "run", classes=("sky", "tree"), finals=False)
    counts = [[6, 2], [3, 9]]
    confusion = {"classes": ["sky", "tree"], "network": "student", "split": "val", "counts": counts}
    (run / "confusion.json").write_text(json.dumps(confusion))
    lines = read_run(run).lines_at("best", "val")
    (table,) = detail_table(lines[0], confusion, "on val, best checkpoint")
    assert table.head == ["class", "Dice (F1)", "precision", "recall"]
    cells = [[cell.text for cell in row] for row in table.rows]
    assert cells == [
        ["sky", "70.6", "66.7", "75.0"],  # 12 / 17, 6 / 9, 6 / 8
        ["tree", "78.3", "81.8", "75.0"],
        ["mean", "74.4", "74.2", "75.0"],
    ]
    figures = {"dice": {"sky": 1.0}, "mean_dice": 1.0, "boundary_iou": {"sky": 2.0}, "mean_boundary_iou": 2.0}
    (table,) = detail_table(lines[0] | figures, confusion, "on test, best checkpoint")
    assert table.head == ["class", "Dice (F1)", "boundary IoU"]
    assert [[cell.text for cell in row] for row in table.rows] == [["sky", "1.0", "2.0"], ["mean", "1.0", "2.0"]]


def test_overlay_keeps_ignored_pixels():
    image = torch.full((3, 1, 2), 100, dtype=torch.uint8)
    result = np.asarray(mask_pictures.overlay(image, torch.tensor([[1, 255]]), PALETTE, opacity=0.25))
    assert result[0, 1].tolist() == [100] * 3
    assert result[0, 0].tolist() == [round(75 + 0.25 * value) for value in PALETTE[1]]


def test_overlay_keeps_the_background_clear():
    image = torch.full((3, 1, 2), 100, dtype=torch.uint8)
    for names, clear in ((("Background", "leaf"), True), (("_background_", "leaf"), True), (("soil", "leaf"), False)):
        result = np.asarray(mask_pictures.overlay(image, torch.tensor([[0, 1]]), PALETTE, classes=names))
        assert (result[0, 0].tolist() == [100] * 3) == clear and result[0, 1].tolist() != [100] * 3


def test_sample_picture_has_every_column_and_class():
    image = torch.zeros(3, 30, 50, dtype=torch.uint8)
    mask = torch.ones(30, 50, dtype=torch.uint8)
    plain = mask_pictures.sample_picture(image, {"student": mask, "ground truth": mask}, PALETTE, cell_width=100)
    with_legend = mask_pictures.sample_picture(
        image, {"student": mask, "ground truth": mask}, PALETTE, CLASSES, cell_width=100
    )
    assert plain.width == with_legend.width == 3 * (100 + mask_pictures.GAP) + mask_pictures.GAP
    assert with_legend.height > plain.height
    assert plain.getpixel((plain.width - 20, plain.height - 20)) == PALETTE[1]
    assert all(color in {rgb for _, rgb in with_legend.getcolors(10**6)} for color in PALETTE)


def test_running_mean_is_centered():
    values = [float(value) for value in range(160)]
    smooth = running_mean(values)
    assert len(smooth) == 160 and smooth[80] == 80 and smooth[0] == 1.0
    assert running_mean([1.0, 2.0]) == [1.0, 2.0]


def test_page_has_no_reference_to_other_files(run):
    page = (run / "report.html").read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert "@import" not in page and "url(" not in page
