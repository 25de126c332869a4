"""What makes a step fit: a frozen encoder, teachers that label in bf16, and the batch that is found by trying."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_recompute import assert_equal, kept_bytes
from test_trainer import same
from torch import Tensor, nn

import semiseg
from semiseg import compare
from semiseg.config import TrainConfig, from_mapping
from semiseg.data import Shapes
from semiseg.errors import UserError
from semiseg.methods import METHODS, Batch, Method, Progress
from semiseg.ops.ema import ema_update
from semiseg.training import auto_batch_size as batch_size
from semiseg.training.auto_batch_size import is_out_of_memory, largest
from semiseg.training.build import make_method, networks
from semiseg.training.checkpoint import load_checkpoint
from semiseg.training.optimizer import make_optimizer
from semiseg.training.trainer import Loop
from toy import make_batch, run, start_over

SMALL = TrainConfig(architecture="deeplabv3plus", encoder="test_resnet", weights="none")
DATA = Shapes(images=4, val=1, test=1, size=48)
TAUGHT = ("mean-teacher", "dual-teacher", "augseg", "unimatch-v2", "gentle-teaching-assistant")
OPTIONS: dict[str, Any] = {
    **{"data": "shapes:images=10,val=3,test=2,size=48", "labeled": "4", "encoder": "test_resnet", "weights": "none"},
    **{"crop_size": 48, "batch_size": 2, "workers": 0, "accelerator": "cpu", "steps": 4, "val_every": 2},
    **{"burn_in": 0.25, "threshold_mode": "none"},
}


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor pictures: most of the time of a short run."""
    monkeypatch.setattr("semiseg.workflows.train.report", lambda runs: None)
    monkeypatch.setattr("semiseg.training.logging.sample_pictures.Samples.write", lambda *_: [])


def made(name: str, **settings: Any) -> Method:
    return make_method(replace(SMALL, method=name, **settings), METHODS[name].Options(), DATA).train()


def batch(step: int = 0) -> Batch:
    return make_batch(len(DATA.classes), side=48, seed=step)


def encoders(method: Method) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in method.state_dict().items() if ".encoder." in f".{key}"}


def checkpoint(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / "last.pt")


# A frozen encoder.


@pytest.mark.parametrize("name", METHODS)
def test_a_frozen_encoder_stays_to_the_bit_and_the_decoder_learns(name: str) -> None:
    method = made(name, freeze_encoder=True)
    before, decoder = encoders(method), method.student.decoder.state_dict()["aspp.project.0.weight"].clone()
    run(method, [batch(step) for step in range(2)])
    assert_equal(encoders(method), before)  # weights, and BatchNorm's statistics, of students and teachers
    assert not torch.equal(method.student.decoder.state_dict()["aspp.project.0.weight"], decoder)
    assert all(p.grad is None for network in networks(method, learning=True) for p in network.encoder.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_of_a_frozen_encoder_nothing_is_in_the_optimizer(name: str) -> None:
    method = made(name, freeze_encoder=True)
    optimized = {id(p) for group in make_optimizer(method, SMALL).param_groups for p in group["params"]}
    assert optimized and not optimized & {
        id(p) for m in networks(method, learning=True) for p in m.encoder.parameters()
    }


def test_of_a_frozen_encoder_nothing_is_kept_but_what_the_decoder_sees() -> None:
    images = torch.rand(2, 3, 64, 64)
    free, frozen = (made("supervised", freeze_encoder=on).student for on in (False, True))
    with torch.no_grad():
        features = frozen.encode(images)
    assert not any(feature.requires_grad for feature in frozen.encode(images))
    decoder = kept_bytes(_Decoder(frozen, [f.requires_grad_() for f in features]), images)
    assert kept_bytes(frozen, images) <= decoder < 0.9 * kept_bytes(free, images)


class _Decoder(nn.Module):
    def __init__(self, network: nn.Module, features: list[Tensor]) -> None:
        super().__init__()
        self.network, self.features = network, features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network.resize(self.network.decode(self.features), images.shape[-2:])
        return logits


def test_a_frozen_encoder_is_in_eval_mode_wherever_a_network_is_put() -> None:
    method = made("dual-teacher", freeze_encoder=True).eval().train()
    assert method.student.decoder.training and not any(m.training for m in method.student.encoder.modules())
    assert not any(m.training for m in method.teachers[0].train().encoder.modules())


def test_sub_models_of_a_frozen_encoder_still_differ_from_it() -> None:
    """Stochastic depth drops branches of the frozen encoder; the decoder learns to bear it."""
    options = METHODS["dual-teacher"].Options(drop_path=1.0)
    method = make_method(replace(SMALL, freeze_encoder=True), options, DATA).eval()
    for norm in (module for module in method.student.encoder.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # those at the ends of branches begin at 0
    x = torch.rand(2, 3, 48, 48)
    z_l, z_m, z_c = method.student_and_sub_models(x, x, x)
    assert torch.equal(z_l, z_m) and z_c is not None and not torch.allclose(z_l, z_c)


def test_a_run_with_a_frozen_encoder_goes_on_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = OPTIONS | {"freeze_encoder": True}
    whole = semiseg.train(out=tmp_path / "whole", **options)
    save = Loop.save

    def killed_at_the_end(loop: Loop, done: int, improved: bool) -> None:
        if done == OPTIONS["steps"]:
            raise KeyboardInterrupt
        save(loop, done, improved)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Loop, "save", killed_at_the_end)
        semiseg.train(out=tmp_path / "half", **options)
    assert checkpoint(tmp_path / "half")["step"] == 2
    half = semiseg.train(resume=tmp_path / "half")
    assert same(checkpoint(half)["method"], checkpoint(whole)["method"])
    assert same(checkpoint(half)["optimizer"], checkpoint(whole)["optimizer"])
    assert len(checkpoint(whole)["optimizer"]["state"]) < len(list(made("supervised").parameters()))
    assert "warning: the frozen encoder's weights are random" in (whole / "log.txt").read_text()


# Teachers in bf16.


@pytest.mark.parametrize("name", TAUGHT)
def test_teachers_label_in_bf16_and_keep_fp32_weights(name: str) -> None:
    method = made(name, teacher_precision="bf16")
    seen: dict[str, set[torch.dtype]] = {"teacher": set(), "student": set()}
    for network in networks(method, learning=False):
        network.head.register_forward_hook(lambda module, args, output: seen["teacher"].add(output.dtype))
    for network in networks(method, learning=True):
        network.head.register_forward_hook(lambda module, args, output: seen["student"].add(output.dtype))
    losses = run(method, [batch()], first=50)
    assert seen == {"teacher": {torch.bfloat16}, "student": {torch.float32}} and torch.tensor(losses).isfinite().all()
    assert {p.dtype for p in method.parameters()} == {torch.float32}
    assert made(name).teacher_dtype is None


@pytest.mark.parametrize("name", [name for name in METHODS if name not in TAUGHT])
def test_a_method_without_a_teacher_refuses_a_precision_for_it(name: str, tmp_path: Path) -> None:
    options = {key: value for key, value in OPTIONS.items() if key not in ("burn_in", "threshold_mode")}
    with pytest.raises(UserError, match=f"^{name} over test_resnet: .*leave --teacher-precision out$"):
        semiseg.train(method=name, out=tmp_path / "run", teacher_precision="bf16", **options)
    assert not (tmp_path / "run").exists()


def test_a_slow_average_would_stand_still_in_bf16() -> None:
    """Why the weights stay fp32: a hundredth of a small difference is less than bf16 can add."""
    student = nn.Linear(4, 4).requires_grad_(False)
    for dtype, moves in ((torch.float32, True), (torch.bfloat16, False)):
        teacher = nn.Linear(4, 4).requires_grad_(False)
        teacher.load_state_dict({key: 1.02 * value for key, value in student.state_dict().items()})
        teacher, follows = teacher.to(dtype), student.to(dtype)
        before = [p.clone() for p in teacher.parameters()]
        ema_update(teacher, follows, 0.99)
        assert all(torch.equal(p, q) != moves for p, q in zip(teacher.parameters(), before, strict=True)), dtype


# The batch that fits.


@pytest.mark.parametrize(
    ("fitting", "limit", "found"), [(5, 100, 4), (8, 100, 8), (100, 23, 16), (0, 100, 0), (9, 1, 1)]
)
def test_the_largest_power_of_two_that_fits_is_found(fitting: int, limit: int, found: int) -> None:
    tried: list[int] = []

    def fits(images: int) -> bool:
        tried.append(images)
        return images <= fitting

    assert largest(fits, limit) == found
    assert tried == sorted(tried) and tried[-1] <= limit


def test_what_running_out_of_memory_looks_like() -> None:
    for error in (torch.OutOfMemoryError("x"), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")):
        assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.fixture
def small_device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A CPU that says of itself what a GPU with room for two images of each kind would say."""
    steps: list[int] = []
    take_step = batch_size.Trial.take_step

    def limited(trial: batch_size.Trial, given: Batch) -> None:
        steps.append(len(given.labeled_images))
        assert len(given.unlabeled_images) == len(given.masks) == steps[-1]
        take_step(trial, given)
        if steps[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(batch_size, "require_gpu", lambda device: None)
    monkeypatch.setattr(batch_size.Trial, "take_step", limited)
    return steps


def test_the_batch_found_is_that_of_the_run_and_of_its_resumption(tmp_path: Path, small_device: list[int]) -> None:
    found = semiseg.train(out=tmp_path / "found", **OPTIONS | {"batch_size": "auto"})
    assert small_device == [1, 1, 2, 2, 4]  # two steps of each size
    assert "batch_size: 2\n" in (found / "config.yaml").read_text()
    assert "--batch-size auto: 2" in (found / "log.txt").read_text().splitlines()
    given = semiseg.train(out=tmp_path / "given", **OPTIONS)
    assert same(checkpoint(found)["method"], checkpoint(given)["method"])  # looking for it has changed nothing
    start_over(found)
    assert same(checkpoint(semiseg.train(resume=found))["method"], checkpoint(given)["method"])
    assert small_device == [1, 1, 2, 2, 4]  # nor is it looked for again


def test_of_an_accumulated_batch_a_part_has_to_fit(tmp_path: Path, small_device: list[int]) -> None:
    options = OPTIONS | {"batch_size": "auto", "accumulate": 2, "labeled": "8", "steps": 1, "val_every": "never"}
    run = semiseg.train(out=tmp_path / "run", **options)
    assert "batch_size: 4\n" in (run / "config.yaml").read_text() and small_device[-1] == 4


TWO = """
import os, sys
import torch
import semiseg
from semiseg.training import auto_batch_size as batch_size

def limited(trial, batch, take_step=batch_size.Trial.take_step):
    take_step(trial, batch)
    if len(batch.masks) > (1 if trial.fabric.global_rank else 4):
        raise torch.OutOfMemoryError("CUDA out of memory")

batch_size.require_gpu = lambda device: None
batch_size.Trial.take_step = limited
semiseg.train(out=sys.argv[1], devices=2, **OPTIONS)
"""


@pytest.mark.long
def test_processes_take_what_fits_on_each_of_them(tmp_path: Path) -> None:
    options = OPTIONS | {"batch_size": "auto", "steps": 1, "val_every": "never"}
    (tmp_path / "two.py").write_text(TWO.replace("OPTIONS", repr(options)))
    command = [sys.executable, str(tmp_path / "two.py"), str(tmp_path / "run")]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert (
        done.stderr.count("--batch-size auto: 2\n") == 1
        and "batch_size: 2\n" in (tmp_path / "run/config.yaml").read_text()
    )


@pytest.mark.usefixtures("small_device")
def test_where_not_one_image_fits_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(batch_size.Trial, "take_step", full)
    with pytest.raises(UserError, match="not even one image of each kind fits"):
        semiseg.train(out=tmp_path / "run", **OPTIONS | {"batch_size": "auto"})
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("small_device")
def test_another_error_of_a_trial_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(batch_size.Trial, "take_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        semiseg.train(out=tmp_path / "run", **OPTIONS | {"batch_size": "auto"})


def test_without_a_gpu_a_number_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--batch-size auto asks a GPU how much fits; on cpu .* give a number"):
        semiseg.train(out=tmp_path / "run", **OPTIONS | {"batch_size": "auto"})
    assert not (tmp_path / "run").exists()


def test_a_comparison_asks_for_a_number_too(tmp_path: Path) -> None:
    options = {key: OPTIONS[key] for key in ("encoder", "weights", "crop_size", "steps")} | {"batch_size": "auto"}
    with pytest.raises(UserError, match="each method would get another batch"):
        compare(OPTIONS["data"], ["supervised"], ["4"], [0], tmp_path / "compared", **options)


# All together.


def test_a_run_with_recomputed_activations_ends_as_one_without(tmp_path: Path) -> None:
    """In the trainer, where draws may come from elsewhere than torch's default generator."""
    options = OPTIONS | {"drop_path": 0.9, "consistency_weight": 1.0, "burn_in": 0.0}
    one, two = (semiseg.train(out=tmp_path / str(on), activation_checkpointing=on, **options) for on in (False, True))
    assert same(checkpoint(one)["method"], checkpoint(two)["method"])
    assert same(checkpoint(one)["optimizer"], checkpoint(two)["optimizer"])


def test_progress_of_a_trial_is_past_every_burn_in() -> None:
    method = METHODS["dual-teacher"]
    options = from_mapping((method.Options,), {"burn_in": 0.3, "ramp_up": 0.15}, "options")[0]
    ramped = make_method(replace(SMALL, method="dual-teacher"), options, DATA)
    assert ramped.ramp(Progress(0, 1000, 10)) == 0.0 and ramped.ramp(batch_size.LAST) == 1.0
    assert isinstance(batch_size.LAST, Progress)
