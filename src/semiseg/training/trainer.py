"""The loop. It knows no method by name: build, restore, step, log, validate, save."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from semiseg.config import TrainConfig, to_mapping
from semiseg.data.mask_validation import check_masks
from semiseg.data.stream.loader import StepLoader, TrainStream, make_loader
from semiseg.errors import TrainingStopped
from semiseg.methods import Batch, Method, Progress
from semiseg.ops.losses import balancing_weights
from semiseg.training.build import make_method, make_stream, synchronize_batchnorm
from semiseg.training.checkpoint import FORMAT, load_optimizer, restore, save_checkpoint
from semiseg.training.decode_plan import make_reader
from semiseg.training.disk_space import checkpoint_bytes, told_in_one_line
from semiseg.training.gradient_step import forward_backward, mean_over_processes
from semiseg.training.logging.console import Console
from semiseg.training.logging.metrics_log import MetricsLog
from semiseg.training.logging.resource_log import write_resources
from semiseg.training.logging.sample_pictures import Samples
from semiseg.training.logging.skipped_images import Skipped
from semiseg.training.logging.step_timer import Clock
from semiseg.training.logging.trackers import open_trackers
from semiseg.training.optimizer import make_optimizer, set_learning_rate
from semiseg.training.resume_checks import check_nothing_lost, read_state, steps_between
from semiseg.training.run_directory import RunDirectory
from semiseg.training.signals import SignalHandler
from semiseg.training.validator import Validator

DEFAULT_STEPS = 2000
LOSS_TERMS = ("supervised", "unsupervised", "consistency", "auxiliary", "filled", "tags")


@dataclass
class Best:
    """The validation kept as best: the default network's mIoU in percent, and the step it was reached at."""

    miou: float = -1.0
    step: int = 0


@dataclass
class Loop:
    """Everything one training run holds while it runs."""

    fabric: Fabric
    config: TrainConfig
    run: RunDirectory
    method: Method
    wrapped: Any  # the method behind Fabric's precision and gradient averaging
    optimizer: Any
    stream: TrainStream
    validator: Validator
    samples: Samples
    console: Console
    interruption: SignalHandler
    total_steps: int
    best: Best = field(default_factory=Best)

    def fit(self, first_step: int) -> None:
        """Train from ``first_step`` (steps already taken) to the end."""
        main = self.fabric.is_global_zero
        trackers = open_trackers(self.config, self.method.options, self.run.path, first_step) if main else []
        log = MetricsLog(self.run.metrics, first_step, main, trackers)
        pin = self.fabric.device.type == "cuda"
        loader = make_loader(self.stream, first_step, self.total_steps, self.config.workers, pin)
        skipped = Skipped(loader.skipped, self.fabric, log, self.console, self.run.metrics)
        try:
            self.take_steps(log, skipped, loader, first_step)
        finally:
            log.close()

    def take_steps(self, log: MetricsLog, skipped: Skipped, loader: StepLoader, first_step: int) -> None:
        """Take each step, log it, and validate when it is time."""
        finite = torch.ones((), dtype=torch.bool, device=self.fabric.device)
        clock = Clock(self.config.batch * (2 if self.method.uses_unlabeled else 1))
        self.method.train()
        for step, batch in enumerate(clock.waiting(self.on_device(loader)), first_step):
            progress = Progress(step, self.total_steps, self.stream.steps_per_epoch)
            scalars, finite_now = self.step(batch, progress)
            finite &= finite_now
            done = step + 1
            self.console.pace(done, self.total_steps)
            logged, validated = self.log_due(done), self.validation_due(done)
            asked = self.interruption.received is not None
            if logged or validated or self.fabric.device.type == "cpu" or (asked and self.fabric.world_size == 1):
                asked = self.agree(finite, asked, done)
            else:  # the processes meet at the next line
                asked = False
            if logged or validated:
                skipped.tell(done, progress.epoch)
            if logged:
                values = mean_over_processes(self.fabric, scalars) | clock.read(done - first_step)
                log.write(done, progress.epoch, values)
                self.console.step(done, self.total_steps, values, self.best.miou)
            if validated:
                self.validate(log, progress)
                clock.restart(done - first_step)
            if asked and done < self.total_steps:
                self.leave(log, done, saved=validated)

    def on_device(self, loader: StepLoader) -> Iterator[Batch]:
        """The batches of the remaining steps, on the device."""
        for batch in loader:
            yield batch.to(self.fabric.device)

    def step(self, batch: Batch, progress: Progress) -> tuple[dict[str, Any], Tensor]:
        """Take one optimizer step; return what to log, and whether loss and gradient are finite."""
        lr = set_learning_rate(self.optimizer, self.config, progress.step, self.total_steps)
        output = forward_backward(self.fabric, self.wrapped, self.config, batch, progress)
        parameters = [p for p in self.method.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or math.inf, foreach=True)
        finite = output.loss.isfinite() & norm.isfinite()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(progress)
        off = dict.fromkeys((f"loss/{term}" for term in LOSS_TERMS), 0.0)
        return {"loss": output.loss} | off | {"lr": lr, "trusted_fraction": 0.0} | output.scalars, finite

    def log_due(self, done: int) -> bool:
        """Whether the step just taken gets a line: every one in a short run, else every tenth, and the last."""
        return self.total_steps < 200 or done % 10 == 0 or done == self.total_steps

    def validation_due(self, done: int) -> bool:
        """Whether to validate and save after ``done`` steps; the end of the run always is."""
        return done % steps_between(self.config, self.total_steps) == 0 or done == self.total_steps

    def agree(self, finite: Tensor, asked: bool, step: int) -> bool:
        """Return whether any process was asked to stop; raise TrainingStopped once loss or gradient was not finite."""
        told = torch.stack([finite.float(), torch.full_like(finite, asked).float()])
        all_finite, any_asked = self.fabric.all_reduce(told, reduce_op="mean").tolist()
        if all_finite != 1:
            kept = f"the checkpoint before is kept, {self.run.last}" if self.run.last.exists() else "none was saved"
            remedy = "start over with a smaller --lr"
            raise TrainingStopped(f"loss or gradient is not finite at step {step}; {kept}: {remedy}")
        return any_asked > 0

    def leave(self, log: MetricsLog, done: int, saved: bool) -> None:
        """Save after ``done`` steps, unless a validation has ``saved`` just now, and end the run as it was asked."""
        if self.fabric.is_global_zero and not saved:
            write_resources(self.run.resources, self.method, self.fabric.device, log.time_s())
            log.sync()
            save_checkpoint(self.run.last, self.state(done))
        self.fabric.barrier()  # a process that is gone while the first one saves would seem to be lost
        self.console.note(f"stopped after step {done} of {self.total_steps}, saved")
        raise self.interruption.interruption(f", saved at step {done}")

    def validate(self, log: MetricsLog, progress: Progress) -> None:
        """Evaluate every network after the step ``progress``, keep the best, save."""
        done, improved, evaluation = progress.step + 1, False, None
        if self.fabric.world_size > 1:  # what is evaluated is what is saved: the first process's running statistics
            for buffer in self.method.buffers():
                buffer.copy_(self.fabric.broadcast(buffer))
        if self.config.val_every != "never":
            lines, evaluation = self.validator(self.method)
            for line in lines:
                log.write(done, progress.epoch, line)
            miou = next(line["miou"] for line in lines if line["network"] == self.method.default_network)
            improved = (miou if miou is not None else 0.0) > self.best.miou
            if improved:
                self.best = Best(miou if miou is not None else 0.0, done)
                self.validator.write_confusion(self.run.confusion, evaluation, self.method.default_network)
            self.console.validation(done, lines, improved)
        if self.fabric.is_global_zero:
            log.show(done, self.samples.write(self.method, progress, evaluation if improved else None))
            write_resources(self.run.resources, self.method, self.fabric.device, log.time_s())
            log.sync()
            self.save(done, improved)  # last, so that a run that was saved at its end lacks nothing
        self.method.train()

    def state(self, done: int) -> dict[str, Any]:
        """What a run that has taken ``done`` steps goes on from."""
        return {
            "format": FORMAT,
            "step": done,
            "best": {"miou": self.best.miou, "step": self.best.step},
            "config": to_mapping(self.config, self.method.options),
            "classes": list(self.validator.dataset.classes),
            "palette": [list(color) for color in self.validator.dataset.palette],
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def save(self, done: int, improved: bool) -> None:
        """Write last.pt, and best.pt where the validation was the best so far (or there is none to choose by)."""
        state = self.state(done)
        weights_only = {key: value for key, value in state.items() if key != "optimizer"}
        if improved or self.config.val_every == "never":
            save_checkpoint(self.run.best, weights_only)
        save_checkpoint(self.run.last, state)
        if self.config.keep:
            save_checkpoint(self.run.last.with_name(f"step-{done:07d}.pt"), weights_only)
            for old in sorted(self.run.last.parent.glob("step-*.pt"))[: -self.config.keep]:
                old.unlink()


def train_run(run: RunDirectory, fabric: Fabric, interruption: SignalHandler) -> Loop:
    """Train the run from its last checkpoint, or from the start, to its end, unless ``interruption`` comes first."""
    config, options = run.read_config()
    dataset, split = run.dataset, run.split
    state = read_state(run, dataset, split)
    method = make_method(config, options, dataset, weights="none" if state else None)
    if config.class_balance > 0:
        pixels = torch.tensor(check_masks(dataset, split.labeled))
        method.class_weights.copy_(balancing_weights(pixels, config.class_balance))
    if config.batchnorm == "sync" and fabric.world_size > 1:
        method = synchronize_batchnorm(method)
    optimizer = make_optimizer(method, config)
    reader, notes = make_reader(config, dataset, split)
    stream = make_stream(config, dataset, split, fabric, reader)
    total_steps = config.steps or (config.epochs * stream.steps_per_epoch if config.epochs else DEFAULT_STEPS)
    console = Console(run.log, enabled=fabric.is_global_zero)
    if state:
        for note in notes:  # a new run has told them
            console.note(note)
        restore(method, state, config, run.last)
    elif check_nothing_lost(run, min(steps_between(config, total_steps), total_steps)):
        console.note("the run ended before it was first saved: it starts again")
    wrapped, wrapped_optimizer = fabric.setup(method, optimizer)
    best = Best()
    if state:
        load_optimizer(run.last, optimizer, state["optimizer"])
        best = Best(state["best"]["miou"], state["best"]["step"])
        on = f" on {fabric.world_size} processes" if fabric.world_size > 1 else ""
        console.note(f"resumed at step {state['step']} of {total_steps}{on}")
    validator = Validator(dataset, split, config, fabric)
    samples = Samples(run.samples, dataset, split, config, fabric.device)
    parts = (fabric, config, run, method, wrapped, wrapped_optimizer, stream, validator, samples, console, interruption)
    loop = Loop(*parts, total_steps, best)
    try:
        interruption.deferred = True
        with told_in_one_line(run.path, checkpoint_bytes(method, config)):
            loop.fit(state["step"] if state else 0)
    finally:
        interruption.deferred = False
        console.close()
    return loop
