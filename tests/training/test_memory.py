"""Options that save memory: frozen encoder, teachers in bf16, activation checkpointing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import same
from torch import Tensor, nn

import semiseg
from semiseg.config import TrainConfig
from semiseg.data import Shapes
from semiseg.errors import UserError
from semiseg.methods import METHODS, Batch, Method
from semiseg.ops.ema import ema_update
from semiseg.ops.stochastic_depth import forward_with_sub_models
from semiseg.training.build import make_method, make_optimizer, networks
from semiseg.training.checkpoint import load_checkpoint
from semiseg.training.trainer import Trainer
from toy import make_batch, run

pytestmark = pytest.mark.usefixtures("quick_module")

SMALL = TrainConfig(architecture="deeplabv3plus", encoder="test_resnet", weights="none")
DATA = Shapes(images=4, val=1, test=1, size=48)
TAUGHT = ("mean-teacher", "dual-teacher", "augseg", "unimatch-v2", "gentle-teaching-assistant", "u2pl")
OPTIONS: dict[str, Any] = {
    **{"data": "shapes:images=10,val=3,test=2,size=48", "labeled": "4", "encoder": "test_resnet", "weights": "none"},
    **{"crop_size": 48, "batch_size": 2, "workers": 0, "accelerator": "cpu", "steps": 4, "val_every": 2},
    **{"val_limit": 1, "burn_in": 0.25, "threshold_mode": "none"},
}


def build(name: str, **settings: Any) -> Method:
    return make_method(replace(SMALL, method=name, **settings), METHODS[name].Options(), DATA).train()


def batch(step: int = 0) -> Batch:
    return make_batch(len(DATA.classes), side=48, seed=step)


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


def saved_bytes(network: nn.Module, images: Tensor) -> int:
    """Return the bytes that autograd saves in a forward pass, without weights, counting each storage once."""
    weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    saved = {}

    def save(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = storage
        return tensor.detach()  # an output that its own node saves is a cycle that Python cannot free

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        network(images)
    return sum(storage.nbytes() for storage in saved.values())


def encoders(method: Method) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in method.state_dict().items() if ".encoder." in f".{key}"}


def checkpoint(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints" / "last.pt")


# Frozen encoder.

OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "dual-teacher"]


@pytest.mark.parametrize("name", ["dual-teacher", *OTHERS])
def test_frozen_encoder_stays_bit_identical_while_the_decoder_learns(name: str) -> None:
    method = build(name, freeze_encoder=True)
    optimized = {id(p) for group in make_optimizer(method, SMALL).param_groups for p in group["params"]}
    frozen = {id(p) for network in networks(method, trainable=True) for p in network.encoder.parameters()}
    assert optimized and not optimized & frozen
    before, decoder = encoders(method), method.student.decoder.state_dict()["aspp.project.0.weight"].clone()
    run(method, [batch(step) for step in range(2)])
    assert_equal(encoders(method), before)  # weights and BatchNorm statistics of students and teachers
    assert not torch.equal(method.student.decoder.state_dict()["aspp.project.0.weight"], decoder)
    assert all(p.grad is None for network in networks(method, trainable=True) for p in network.encoder.parameters())


def test_frozen_encoder_saves_only_the_decoder_inputs() -> None:
    images = torch.rand(2, 3, 64, 64)
    free, frozen = (build("supervised", freeze_encoder=on).student for on in (False, True))
    with torch.no_grad():
        features = frozen.encode(images)
    assert not any(feature.requires_grad for feature in frozen.encode(images))
    decoder = saved_bytes(_Decoder(frozen, [f.requires_grad_() for f in features]), images)
    assert saved_bytes(frozen, images) <= decoder < 0.9 * saved_bytes(free, images)


class _Decoder(nn.Module):
    def __init__(self, network: nn.Module, features: list[Tensor]) -> None:
        super().__init__()
        self.network, self.features = network, features

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network.resize(self.network.decode(self.features), images.shape[-2:])
        return logits


def test_frozen_encoder_stays_in_eval_mode() -> None:
    method = build("dual-teacher", freeze_encoder=True).eval().train()
    assert method.student.decoder.training and not any(m.training for m in method.student.encoder.modules())
    assert not any(m.training for m in method.teachers[0].train().encoder.modules())


def test_sub_models_of_frozen_encoder_differ_from_it() -> None:
    """Stochastic depth also drops branches of a frozen encoder."""
    options = METHODS["dual-teacher"].Options(drop_path=1.0)
    method = make_method(replace(SMALL, freeze_encoder=True), options, DATA).eval()
    for norm in (module for module in method.student.encoder.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # the last ones of branches are initialized with 0
    x = torch.rand(2, 3, 48, 48)
    logits, same_logits, sub_logits = forward_with_sub_models(method.student, (x, x, x), (0.0, 0.0, 1.0))
    assert torch.equal(logits, same_logits) and not torch.allclose(logits, sub_logits)


@pytest.mark.slow
def test_run_with_frozen_encoder_resumes_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = OPTIONS | {"freeze_encoder": True}
    whole = semiseg.train(out=tmp_path / "whole", **options)
    save = Trainer.save

    def crash_at_the_end(trainer: Trainer, done: int, improved: bool) -> None:
        if done == OPTIONS["steps"]:
            raise KeyboardInterrupt
        save(trainer, done, improved)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "save", crash_at_the_end)
        semiseg.train(out=tmp_path / "half", **options)
    assert checkpoint(tmp_path / "half")["step"] == 2
    half = semiseg.train(resume=tmp_path / "half")
    assert same(checkpoint(half)["method"], checkpoint(whole)["method"])
    assert same(checkpoint(half)["optimizer"], checkpoint(whole)["optimizer"])
    assert len(checkpoint(whole)["optimizer"]["state"]) < len(list(build("supervised").parameters()))
    assert "warning: the frozen encoder has random weights" in (whole / "log.txt").read_text()


# Teachers in bf16.


@pytest.mark.parametrize("name", TAUGHT)
def test_teachers_predict_in_bf16_and_keep_fp32_weights(name: str) -> None:
    method = build(name, teacher_precision="bf16")
    seen: dict[str, set[torch.dtype]] = {"teacher": set(), "student": set()}
    for network in networks(method, trainable=False):
        network.head.register_forward_hook(lambda module, args, output: seen["teacher"].add(output.dtype))
    for network in networks(method, trainable=True):
        network.head.register_forward_hook(lambda module, args, output: seen["student"].add(output.dtype))
    losses = run(method, [batch()], first=50)
    assert seen == {"teacher": {torch.bfloat16}, "student": {torch.float32}} and torch.tensor(losses).isfinite().all()
    assert {p.dtype for p in method.parameters()} == {torch.float32}
    assert build(name).teacher_dtype is None


@pytest.mark.parametrize("name", [name for name in METHODS if name not in TAUGHT])
def test_method_without_teacher_refuses_teacher_precision(name: str, tmp_path: Path) -> None:
    options = {key: value for key, value in OPTIONS.items() if key not in ("burn_in", "threshold_mode")}
    with pytest.raises(UserError, match=f"^{name} over test_resnet: .*leave --teacher-precision out"):
        semiseg.train(method=name, out=tmp_path / "run", teacher_precision="bf16", **options)
    assert not (tmp_path / "run").exists()


def test_slow_ema_would_not_move_in_bf16() -> None:
    """The reason for fp32 weights: bf16 cannot represent a hundredth of a small difference."""
    student = nn.Linear(4, 4).requires_grad_(False)
    for dtype, moves in ((torch.float32, True), (torch.bfloat16, False)):
        teacher = nn.Linear(4, 4).requires_grad_(False)
        teacher.load_state_dict({key: 1.02 * value for key, value in student.state_dict().items()})
        teacher, follows = teacher.to(dtype), student.to(dtype)
        before = [p.clone() for p in teacher.parameters()]
        ema_update(teacher, follows, 0.99)
        assert all(torch.equal(p, q) != moves for p, q in zip(teacher.parameters(), before, strict=True)), dtype


# Activation checkpointing.


@pytest.mark.slow
def test_activation_checkpointing_does_not_change_a_run(tmp_path: Path) -> None:
    """In the trainer, random numbers also come from other generators than the default one."""
    options = OPTIONS | {"drop_path": 0.9, "consistency_weight": 1.0, "burn_in": 0.0}
    one, two = (semiseg.train(out=tmp_path / str(on), activation_checkpointing=on, **options) for on in (False, True))
    assert same(checkpoint(one)["method"], checkpoint(two)["method"])
    assert same(checkpoint(one)["optimizer"], checkpoint(two)["optimizer"])
