"""Methods in the user's own file: the example of CONTRIBUTING.md, one written for 0.1.0, and Dual Teacher Plus."""

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

ROOT = Path(__file__).parents[2]
PLUS = ROOT / "examples" / "dual_teacher_plus.py"
OLD = ROOT / "tests" / "fixtures" / "methods-0.1.0" / "self_training.py"
SMALL = {
    "data": "shapes:images=8,val=2,test=2,size=48",
    "labeled": "4",
    "steps": 2,
    "batch_size": 2,
    "crop_size": 32,
    "encoder": "test_resnet",
    "weights": "none",
    "workers": 0,
    "accelerator": "cpu",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(\"\"\"Self-training.*?)```", guide, re.DOTALL)
    assert code is not None
    path = tmp_path / "self_training.py"
    path.write_text(code[1], encoding="utf-8")
    return path


def losses(kind: type[Method], **options: object) -> list[float]:
    torch.manual_seed(0)
    method = kind(lambda: Toy(3), 3, kind.Options(**options)).train()
    return run(method, [make_batch(unlabeled=3, seed=seed) for seed in range(4)])


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_example_of_the_guide_trains_resumes_and_evaluates(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    run = semiseg.train(method=f"{file.name}:SelfTraining", out=tmp_path / "run", threshold=0.1, **SMALL)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any(line.get("loss/unsupervised", 0) > 0 for line in lines)
    monkeypatch.chdir("/")  # the run finds its method from any directory
    best = (run / "checkpoints" / "best.pt").read_bytes()
    start_over(run)
    assert semiseg.train(resume=run) == run
    assert (run / "checkpoints" / "best.pt").read_bytes() == best
    assert 0 <= semiseg.evaluate(run)["miou"] <= 100
    assert type(semiseg.load(run).method).__name__ == "SelfTraining"


def test_method_written_for_version_0_1_0_gives_the_same_losses(file: Path) -> None:
    new, old = (find_method(f"{path}:SelfTraining") for path in (file, OLD))
    expected = losses(new, threshold=0.4)
    assert losses(old, threshold=0.4) == expected
    assert len(set(expected)) == 4


def test_deprecated_names_of_version_0_1_0() -> None:
    from semiseg.methods.method import Method, check_range

    assert Method.ask is Method.teacher_logits
    check_range(METHODS["dual-teacher"].Options(), 1, "threshold", "ema_decay")
    with pytest.raises(ValueError, match=r"shift-steps is 3: it must be in \[0, 1\]"):
        check_range(METHODS["dual-teacher"].Options(shift_steps=3), 1, "shift_steps")


def test_find_method_accepts_names_and_files() -> None:
    assert find_method("dual-teacher") is METHODS["dual-teacher"]
    assert short_name("/some/where/mine.py:Mine") == "Mine" and short_name("dual-teacher") == "dual-teacher"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dual-techer", None, "did you mean dual-teacher"),
        ("FILE:Mine", None, "no such file"),
        ("FILE:Mine", "x = 1\n", "Mine"),
        ("FILE:Method", "from semiseg.methods import Method\n", "Method"),
        ("FILE:Mine", "import nowhere_to_be_found\n", "ModuleNotFoundError"),
        (
            "FILE:Mine",
            "from semiseg.methods import Method\nclass Mine(Method):\n    def training_step(self, *_): ...\n",
            "Options must be a dataclass",
        ),
    ],
)
def test_invalid_methods_are_reported_in_one_line(name: str, content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / f"own_{abs(hash((name, content)))}.py"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        find_method(name.replace("FILE", str(path)))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_preset_gives_an_own_method_the_common_options(file: Path) -> None:
    config, _ = resolve({"method": f"{file}:SelfTraining"}, preset="small")
    assert (config.batchnorm, config.class_balance) == ("frozen-encoder", 0.5)


def test_dual_teacher_plus_equals_dual_teacher_only_without_its_parts() -> None:
    plus = find_method(f"{PLUS}:DualTeacherPlus")
    soft: dict[str, object] = {"threshold_mode": "none", "label_temperature": 1.0}
    expected = losses(METHODS["dual-teacher"], **soft)
    assert losses(plus, views=1, **soft) == expected
    parts: list[dict[str, object]] = [{}, {"views": 1, "intensity_changes": 3}, {"views": 1, "label_injection": True}]
    for options in parts:
        assert losses(plus, **soft, **options) != expected
