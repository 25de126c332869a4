"""A stranger's method, by file and class: the example of CONTRIBUTING.md, trained, resumed, evaluated."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import semiseg
from semiseg.errors import UserError
from semiseg.methods import METHODS, Method
from semiseg.training.find_method import find_method, short_name
from semiseg.training.resolve_config import resolve
from toy import Toy, make_batch, run, start_over

PLUS = Path(__file__).parents[2] / "examples" / "dual_teacher_plus.py"
EXAMPLE = Path(__file__).parents[2] / "CONTRIBUTING.md"
SMALL = {
    "data": "shapes:images=10,val=2,test=2,size=48",
    "labeled": "4",
    "steps": 2,
    "batch_size": 2,
    "crop_size": 32,
    "weights": "none",
    "workers": 0,
    "accelerator": "cpu",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    code = re.search(r"```python\n(\"\"\"Self-training.*?)```", EXAMPLE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    path = tmp_path / "self_training.py"
    path.write_text(code[1], encoding="utf-8")
    return path


def test_the_example_of_the_guide_is_trained_resumed_and_evaluated(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    run = semiseg.train(method=f"{file.name}:SelfTraining", out=tmp_path / "run", threshold=0.3, **SMALL)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("loss/unsupervised", 0) > 0 for line in lines)
    monkeypatch.chdir("/")  # a run knows its method from anywhere
    best = (run / "checkpoints" / "best.pt").read_bytes()
    start_over(run)
    assert semiseg.train(resume=run) == run
    assert (run / "checkpoints" / "best.pt").read_bytes() == best
    assert 0 <= semiseg.evaluate(run)["miou"] <= 100
    assert type(semiseg.load(run).method).__name__ == "SelfTraining"


def test_known_methods_are_found_by_name_and_own_ones_have_a_short_one() -> None:
    assert find_method("dual-teacher") is METHODS["dual-teacher"]
    assert short_name("/some/where/mine.py:Mine") == "Mine" and short_name("dual-teacher") == "dual-teacher"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dual-techer", None, "did you mean dual-teacher"),
        ("FILE:Mine", None, "no such file"),
        ("FILE:Mine", "x = 1\n", "Mine is no class there"),
        ("FILE:Method", "from semiseg.methods import Method\n", "Method is no class there"),
        ("FILE:Mine", "import nowhere_to_be_found\n", "cannot be imported (ModuleNotFoundError"),
        (
            "FILE:Mine",
            "from semiseg.methods import Method\nclass Mine(Method):\n    def training_step(self, *_): ...\n",
            "Options must be a dataclass, with a default",
        ),
    ],
)
def test_what_is_no_method_is_told_in_one_line(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / f"own_{abs(hash((name, content)))}.py"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        find_method(name.replace("FILE", str(path)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_preset_gives_an_own_method_what_all_methods_share(file: Path) -> None:
    config, _ = resolve({"method": f"{file}:SelfTraining"}, preset="small")
    assert (config.batchnorm, config.class_balance) == ("frozen-encoder", 0.5)


def test_dual_teacher_plus_without_its_parts_is_dual_teacher_and_with_each_it_is_not() -> None:
    plus = find_method(f"{PLUS}:DualTeacherPlus")
    batches = [make_batch(unlabeled=3, seed=seed) for seed in range(4)]

    def train(kind: type[Method], **options: object) -> list[float]:
        torch.manual_seed(0)
        chosen = kind.Options(threshold_mode="none", label_temperature=1.0, **options)
        return run(kind(lambda: Toy(3), 3, chosen).train(), batches)

    expected = train(METHODS["dual-teacher"])
    assert train(plus, views=1) == expected
    parts: list[dict[str, object]] = [{}, {"views": 1, "intensity_changes": 3}, {"views": 1, "label_injection": True}]
    for options in parts:
        assert train(plus, **options) != expected
