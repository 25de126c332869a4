"""Steps, networks, optimizers, evaluation and prediction on a pretended GPU: no tensor on the CPU, no waiting host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import BATCHES, CASES, STEPS_PER_EPOCH, TOTAL_STEPS, make_ohem
from torch import Tensor, nn

from pretended_gpu import DEVICE, HostWaits, LeftOnTheCPU, PretendedGPU
from semiseg.config import TrainConfig
from semiseg.data import Shapes
from semiseg.inference import Predictor, evaluate_networks
from semiseg.inference.windows import predict_windows
from semiseg.methods import METHODS, Batch, Method, Progress, StepOutput
from semiseg.networks import SUGGESTED, build
from semiseg.ops import mixing, photometric
from semiseg.ops.ema import ema_update
from semiseg.ops.intensity import POOL
from semiseg.training.build import make_method, make_optimizer
from semiseg.training.logging.console import Console
from semiseg.training.signals import SignalHandler
from semiseg.training.trainer import Trainer
from toy import Toy, gradients, make, make_batch, state

PROGRESS = Progress(step=30, total_steps=100, steps_per_epoch=10)
# What differs in operations from the defaults: batches, losses, modes and regions.
BRANCHES = (
    *(f"dual-teacher/{case}" for case in ("all-tagged", "ohem", "batch", "image", "classmix-only", "burn-in")),
    *("mean-teacher/mse", "mean-teacher/partial-soft", "supervised/ohem", "dual-student/no-cutmix-soft", "augseg/soft"),
    *("pseudoseg/background", "pc2seg/few", "fixmatch/odd", "gentle-teaching-assistant/padded"),
    *("u2pl/few", "u2pl/padded", "u2pl/no-contrast"),
)
STEPS = (*(f"{method}/default" for method in METHODS), *BRANCHES)
LONG = [name for name, case in CASES.items() if name not in STEPS and not case.autocast and not case.teacher_dtype]


# The pretended GPU finds faults.


FAULTS: dict[str, tuple[type[Exception], Callable[[Tensor], Any]]] = {
    "item": (HostWaits, lambda x: x.sum().item()),
    "tolist": (HostWaits, lambda x: x[0].tolist()),
    "bool": (HostWaits, lambda x: 1 if (x > 0).any() else 0),
    "float": (HostWaits, lambda x: float(x.mean())),
    "mask as index": (HostWaits, lambda x: x[x > 0]),
    "mask as index in place": (HostWaits, lambda x: x.clone().index_put_((x > 0,), torch.zeros((), device=x.device))),
    "nonzero": (HostWaits, lambda x: x.nonzero()),
    "unique": (HostWaits, lambda x: x.unique()),
    "bincount": (HostWaits, lambda x: x.long().flatten().bincount()),
    "to the CPU": (HostWaits, lambda x: x.cpu()),
    "copied to the CPU": (HostWaits, lambda x: torch.zeros(3, 4).copy_(x)),
    "blocking copy": (HostWaits, lambda x: torch.ones(3, 4).to(x.device)),
    "index on the CPU": (HostWaits, lambda x: x[torch.tensor([0, 2])]),
    "numbers": (HostWaits, lambda x: x + torch.tensor([1.0, 2, 3, 4], device=x.device)),
    "numbers like": (HostWaits, lambda x: x + x.new_tensor([1.0, 2, 3, 4])),
    "sum with the CPU": (LeftOnTheCPU, lambda x: x + torch.ones(3, 4)),
    "mask on the CPU": (LeftOnTheCPU, lambda x: torch.where(torch.ones(3, 4) > 0, x, x)),
    "joined with the CPU": (LeftOnTheCPU, lambda x: torch.stack([x.sum(), torch.zeros(())])),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_raises_an_error(fault: str) -> None:
    error, compute = FAULTS[fault]
    with PretendedGPU() as gpu:
        x = gpu.move(torch.randn(3, 4))
        with pytest.raises(error):
            compute(x)


def test_asynchronous_operations_raise_no_error() -> None:
    values = torch.arange(12.0).view(3, 4)
    with PretendedGPU() as gpu:
        x = gpu.move(values)
        copied = torch.ones(3, 4).to(x.device, non_blocking=True)
        result = torch.where(x > 5, x * torch.tensor(2.0), copied)[torch.arange(2, device=x.device)]
        assert result.device == DEVICE
        assert gpu.read(result).tolist() == [[1, 1, 1, 1], [1, 1, 12, 14]]


class Faulty(METHODS["mean-teacher"]):  # type: ignore[misc]
    """Mean Teacher with one fault in its step."""

    fault: Callable[[StepOutput], Any]

    def training_step(self, batch: Batch, progress: Progress) -> StepOutput:
        output: StepOutput = super().training_step(batch, progress)
        self.fault(output)
        return output


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (HostWaits, lambda output: output.scalars["loss/supervised"].item()),
        (LeftOnTheCPU, lambda output: output.loss * torch.ones(2)),
    ],
    ids=["item", "tensor on the CPU"],
)
def test_a_fault_in_a_method_raises_an_error(error: type[Exception], fault: Callable[[StepOutput], Any]) -> None:
    method = Faulty(lambda: Toy(3), 3, Faulty.Options())
    method.fault = fault
    with PretendedGPU() as gpu, pytest.raises(error):
        gpu.move(method)(gpu.move(make_batch()), PROGRESS)


def test_a_fault_in_the_backward_pass_raises_an_error() -> None:
    with PretendedGPU() as gpu:
        x = gpu.move(torch.ones(3)).requires_grad_()
        y = x * 2
        y.register_hook(lambda gradient: gradient * gradient.sum().item())
        with pytest.raises(HostWaits):
            y.sum().backward()


# Methods.


def step_on_cpu(method: Method, batch: Batch, progress: Progress) -> StepOutput:
    torch.manual_seed(1)
    output: StepOutput = method(batch, progress)
    output.loss.backward()
    method.after_step(progress)
    return output


@pytest.mark.parametrize("name", [*STEPS, *(pytest.param(name, marks=pytest.mark.long) for name in LONG)])
def test_step_on_the_device_equals_that_on_the_cpu(name: str) -> None:
    case, progress = CASES[name], Progress(5, TOTAL_STEPS, STEPS_PER_EPOCH)
    if "burn-in" in name:
        progress = Progress(0, TOTAL_STEPS, STEPS_PER_EPOCH)
    methods = [make(case.method, case.classes, **case.options) for _ in range(2)]
    for method in methods:
        if case.supervised_loss == "ohem":
            method.supervised_loss = make_ohem()
    batch = BATCHES[case.batch](case.classes, case.seed)
    expected = step_on_cpu(methods[0], batch, progress)
    with PretendedGPU() as gpu:
        method = gpu.move(methods[1])
        output = step_on_cpu(method, gpu.move(batch), progress)
        assert output.loss.device == DEVICE and all(value.device == DEVICE for value in output.scalars.values())
        assert gpu.read(output.loss) == expected.loss
        with gpu.unchecked():
            found = state(method).to("cpu"), gradients(method).to("cpu")
    assert torch.equal(found[0], state(methods[0])) and torch.equal(found[1], gradients(methods[0]))


@pytest.mark.parametrize(
    ("change", "channels"),
    [*((change, 3) for change in (*POOL, "photometric", "color_jitter", "cutout")), ("photometric", 5)],
)
def test_colors_do_not_wait(change: str, channels: int) -> None:
    images = torch.randint(0, 256, (6, channels, 12, 13), dtype=torch.uint8)

    def changed(images: Tensor) -> Tensor:
        torch.manual_seed(0)
        if change in POOL:
            return POOL[change](images[0], 0.4)
        function: Any = getattr(photometric, change)
        views = function(images.float() / 255, 0.5)
        return views if isinstance(views, Tensor) else views[0]

    with PretendedGPU() as gpu:
        assert torch.equal(gpu.read(changed(gpu.move(images))), changed(images))


REGIONS = {**mixing.REGIONS} | {
    name: getattr(mixing, name) for name in ("occasional_box_region", "fitting_box_region", "half_box_region")
}


@pytest.mark.parametrize("region", REGIONS)
def test_regions_do_not_wait(region: str) -> None:
    labels = torch.randint(0, 4, (5, 12, 13))
    with PretendedGPU() as gpu:
        on_device = gpu.move(labels)
        torch.manual_seed(0)
        found = REGIONS[region](on_device)
        torch.manual_seed(0)
        assert torch.equal(gpu.read(found), REGIONS[region](labels))


# Networks, optimizers and the trainer.


LARGE = ("resnet101", "mit_b1", "resnet50")


@pytest.mark.parametrize(
    ("architecture", "encoder"),
    [pytest.param(*pair, marks=pytest.mark.long) if pair[1] in LARGE else pair for pair in SUGGESTED],
)
def test_suggested_networks_do_not_wait(architecture: str, encoder: str) -> None:
    network = build(architecture, encoder, 5, "none").to(DEVICE).train()  # without values: nothing is computed
    teacher = deepcopy(network).eval().requires_grad_(False)
    images = torch.empty(2, 3, 70, 70, device=DEVICE)
    with PretendedGPU():
        with torch.no_grad():
            labels = teacher(images).argmax(dim=1)
        logits = network(images)
        assert logits.shape == (2, 5, 70, 70)
        nn.functional.cross_entropy(logits, labels).backward()
        assert all(p.grad is not None and p.grad.device == DEVICE for p in network.parameters())
        ema_update(teacher, network, 0.9)


class OneRank:
    """The methods of Fabric that a step calls, for one process in fp32."""

    device, global_rank, world_size = DEVICE, 0, 1

    def no_backward_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()


def train(method: Method, config: TrainConfig, batch: Batch, read: Callable[[Tensor], Tensor]) -> list[float]:
    """Return the loss of a step of the trainer, and the largest weight of the student after it."""
    fabric: Any = OneRank()
    unused: Any = None
    trainer = Trainer(
        fabric=fabric,
        config=config,
        run=unused,
        method=method.train(),
        wrapped=method,
        optimizer=make_optimizer(method, config),
        stream=unused,
        samples=unused,
        console=Console(Path(), enabled=False),
        signals=SignalHandler(Path()),
        total_steps=100,
    )
    scalars, finite = trainer.step(batch, PROGRESS)
    assert read(finite)
    weights = torch.stack([read(p.detach().abs().max()) for p in method.student.parameters()])
    return [float(read(scalars["loss"])), float(weights.max())]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adamw", "accumulate": 2, "supervised_loss": "ohem", "ohem_min_kept": 50},
        {"optimizer": "sgd", "activation_checkpointing": True, "batchnorm": "frozen-encoder"},
    ],
    ids=["accumulate", "checkpointing"],
)
def test_trainer_does_not_wait(changes: dict[str, Any]) -> None:
    small = TrainConfig(architecture="deeplabv3plus", encoder="test_resnet", weights="none", method="dual-teacher")
    config = replace(small, accelerator="cpu", precision="fp32", **changes)
    batch = make_batch(7, labeled=4, unlabeled=4, side=32)
    options, data = METHODS["dual-teacher"].Options(threshold_mode="none"), Shapes(images=4, val=1, test=1, size=48)
    methods = [make_method(config, options, data) for _ in range(2)]
    expected = train(methods[0], config, batch, Tensor.detach)
    with PretendedGPU() as gpu:
        found = train(gpu.move(methods[1]), config, gpu.move(batch), gpu.read)
    assert found == pytest.approx(expected, rel=1e-6)


# Evaluation and prediction.


WAITS_PER_IMAGE = 2  # the image and the mask are copied to the device
WAITS_PER_PREDICTION = 4  # the confusion matrix reads extreme values and counts


@pytest.fixture
def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {"student": Toy(7).eval(), "teacher1": Toy(7).eval(), "teacher2": Toy(7).eval()}


@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_evaluation_on_the_device_equals_that_on_the_cpu(networks: dict[str, nn.Module], mode: str) -> None:
    data = Shapes(images=2, val=2, test=1, size=48)
    ids = data.split("val") or ()
    settings: dict[str, Any] = {"mode": mode, "crop_size": 24, "image_scale": 0.75}
    expected = evaluate_networks(networks, data, ids, device="cpu", **settings)
    with PretendedGPU(strict=False) as gpu:
        moved = {name: gpu.move(network) for name, network in networks.items()}
        found = evaluate_networks(moved, data, ids, device=DEVICE, **settings)
        assert all(matrix.counts.device == DEVICE for matrix in found.matrices.values())
        assert gpu.waits <= len(ids) * (WAITS_PER_IMAGE + 3 + WAITS_PER_PREDICTION * len(found.matrices))
        for name, matrix in expected.matrices.items():
            assert torch.equal(gpu.read(found.matrices[name].counts), matrix.counts)
            torch.testing.assert_close(gpu.read(found.by_image[name]), expected.by_image[name])
        assert {name: int(gpu.read(count)) for name, count in found.disagreeing.items()} == {
            name: int(count) for name, count in expected.disagreeing.items()
        }


def regions(predictor: Predictor, image: Tensor) -> Iterator[Tensor]:
    def read(top: int, left: int, height: int, width: int) -> Tensor:
        return image[:, top : top + height, left : left + width]

    for region in predict_windows(predictor, read, (image.shape[1], image.shape[2]), window=16):
        yield region.probabilities


def test_predictions_on_the_device_equal_those_on_the_cpu(networks: dict[str, nn.Module]) -> None:
    image = torch.randint(0, 256, (3, 33, 40), dtype=torch.uint8)
    on_cpu = Predictor([*networks.values()])
    expected = [*on_cpu(image), *regions(on_cpu, image)]
    with PretendedGPU(strict=False) as gpu:
        predictor = Predictor([gpu.move(network) for network in networks.values()])
        assert predictor.device == DEVICE
        found = list(predictor(image))
        assert gpu.waits == 1  # the copy of the image
        found += regions(predictor, image)
        assert all(tensor.device == DEVICE for tensor in found)
        for ours, theirs in zip(map(gpu.read, found), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
