"""The training loop, shared by all methods: step, log, validate, save."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from semiseg.config import TrainConfig, to_mapping
from semiseg.data.mask_validation import check_masks
from semiseg.data.stream.loader import StepLoader, TrainStream, make_loader
from semiseg.errors import TrainingStopped
from semiseg.inference.evaluation import Evaluation
from semiseg.methods import Batch, Method, Progress
from semiseg.ops.losses import balancing_weights
from semiseg.training.build import (
    make_method,
    make_optimizer,
    make_stream,
    planned_steps,
    set_learning_rate,
    steps_per_epoch,
    synchronize_batchnorm,
)
from semiseg.training.change_run import extension_notes, new_labels
from semiseg.training.checkpoint import FORMAT, load_optimizer, restore, save_checkpoint
from semiseg.training.decode_plan import make_reader
from semiseg.training.disk_space import checkpoint_bytes, report_write_errors
from semiseg.training.gradient_step import forward_backward, mean_over_processes
from semiseg.training.initial_network import read_initial_network
from semiseg.training.logging.console import Console
from semiseg.training.logging.metrics_log import LOSS_TERMS, MetricsLog
from semiseg.training.logging.resource_log import write_resources
from semiseg.training.logging.sample_pictures import Samples
from semiseg.training.logging.skipped_images import SkippedImages
from semiseg.training.logging.step_timer import StepTimer
from semiseg.training.logging.trackers import open_trackers
from semiseg.training.prepare_run import check_first_start, load_resume_state, steps_between_validations
from semiseg.training.run_directory import RunDirectory
from semiseg.training.safeguard import Safeguard, burn_in_steps, first_validation, start_safeguard
from semiseg.training.signals import SignalHandler
from semiseg.training.validation import evaluate_on_val, write_confusion

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Best:
    """The best validation so far: mIoU of the default network in percent, and its step."""

    miou: float = -1.0
    step: int = 0


@dataclass(kw_only=True)
class Trainer:
    """A training run in progress.

    Attributes:
        fabric: Lightning Fabric, launched.
        config: The run's configuration.
        run: The run directory.
        method: The method with its networks.
        wrapped: ``method`` wrapped by Fabric for mixed precision and gradient averaging.
        optimizer: The optimizer, wrapped by Fabric.
        stream: The batches of this rank, by global step.
        samples: Writes pictures at every validation.
        console: Shows progress and writes log.txt.
        signals: Keeps the signal that this process received.
        total_steps: Number of optimizer steps of the run.
        best: The best validation so far.
        safeguard: Reduces the weight of unlabeled images; None without ``--safeguard``.
    """

    fabric: Fabric
    config: TrainConfig
    run: RunDirectory
    method: Method
    wrapped: Any
    optimizer: Any
    stream: TrainStream
    samples: Samples
    console: Console
    signals: SignalHandler
    total_steps: int
    best: Best = field(default_factory=Best)
    safeguard: Safeguard | None = None

    def fit(self, first_step: int) -> None:
        """Train from ``first_step``, the number of steps already taken, to ``total_steps``."""
        rank_zero, epoch_steps = self.fabric.is_global_zero, steps_per_epoch(self.config, self.run.split)
        trackers = open_trackers(self.config, self.method.options, self.run.path, first_step) if rank_zero else []
        with closing(MetricsLog(self.run.metrics, first_step, rank_zero, trackers)) as log:
            pin_memory = self.fabric.device.type == "cuda"
            loader = make_loader(self.stream, first_step, self.total_steps, self.config.workers, pin_memory)
            skipped = SkippedImages(loader.skipped, self.fabric, log, self.console, self.run.metrics)
            timer = StepTimer(self.config.batch * (2 if self.method.uses_unlabeled else 1))
            finite = torch.ones((), dtype=torch.bool, device=self.fabric.device)
            self.method.train()
            for step, batch in enumerate(timer.timed(self.on_device(loader)), first_step):
                factor = self.safeguard.factor if self.safeguard else 1.0
                progress = Progress(step, self.total_steps, epoch_steps, factor)
                scalars, step_is_finite = self.step(batch, progress)
                finite &= step_is_finite
                done = step + 1
                self.console.estimate(done, self.total_steps)
                log_now, validate_now = self.should_log(done), self.should_validate(done)
                stop = self.should_stop(done, finite, log_now or validate_now)
                if log_now or validate_now:
                    skipped.report(done, progress.epoch)
                if log_now:
                    values = mean_over_processes(self.fabric, scalars) | timer.read(done - first_step)
                    log.write(done, progress.epoch, values)
                    self.console.step(done, self.total_steps, values, self.best.miou)
                if validate_now:
                    self.validate(log, progress)
                    timer.restart(done - first_step)
                if stop and done < self.total_steps:
                    self.save_and_stop(log, done, saved=validate_now)

    def on_device(self, loader: StepLoader) -> Iterator[Batch]:
        """Yield the batches of ``loader`` on the device."""
        for batch in loader:
            yield batch.to(self.fabric.device)

    def step(self, batch: Batch, progress: Progress) -> tuple[dict[str, Any], Tensor]:
        """Take one optimizer step; return the scalars to log, and whether loss and gradient are finite."""
        lr = set_learning_rate(self.optimizer, self.config, progress.step, self.total_steps)
        output = forward_backward(self.fabric, self.wrapped, self.config, batch, progress)
        parameters = [p for p in self.method.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm or math.inf, foreach=True)
        finite = output.loss.isfinite() & norm.isfinite()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(progress)
        unused = dict.fromkeys((f"loss/{term}" for term in LOSS_TERMS), 0.0)
        scalars = {"loss": output.loss} | unused | {"lr": lr, "trusted_fraction": 0.0} | output.scalars
        if self.safeguard is not None:
            scalars["unlabeled_factor"] = progress.unlabeled_factor
        return scalars, finite

    def should_log(self, done: int) -> bool:
        """Return whether to log after ``done`` steps: every step of a short run, otherwise every tenth and the last."""
        return self.total_steps < 200 or done % 10 == 0 or done == self.total_steps

    def should_validate(self, done: int) -> bool:
        """Return whether to validate and save after ``done`` steps; the end of the run always validates."""
        every = steps_between_validations(self.config, self.total_steps, self.run.split)
        ends_burn_in = self.safeguard is not None and done == burn_in_steps(self.method, self.total_steps)
        return done % every == 0 or done == self.total_steps or ends_burn_in

    def should_stop(self, done: int, finite: Tensor, ranks_synchronize: bool) -> bool:
        """Return whether a rank received a signal.

        On a GPU the check waits for the device. Several ranks therefore check only if ``ranks_synchronize``, in steps
        that are logged or validated.

        Raises:
            TrainingStopped: A loss or gradient was not finite.
        """
        received = self.signals.received is not None
        alone = received and self.fabric.world_size == 1
        if not (ranks_synchronize or alone or self.fabric.device.type == "cpu"):
            return False
        flags = torch.stack([finite.float(), torch.full_like(finite, received).float()])
        all_finite, any_received = self.fabric.all_reduce(flags, reduce_op="mean").tolist()
        if all_finite != 1:
            kept = f"The last checkpoint is {self.run.last}" if self.run.last.exists() else "No checkpoint was saved"
            raise TrainingStopped(
                f"loss or gradient is not finite at step {done}. {kept}. Start over with a smaller --lr."
            )
        return any_received > 0

    def save_and_stop(self, log: MetricsLog, done: int, saved: bool) -> None:
        """Save after ``done`` steps, unless a validation has just ``saved``, and raise the interruption."""
        if self.fabric.is_global_zero and not saved:
            write_resources(self.run.resources, self.method, self.fabric.device, log.time_s())
            log.sync()
            save_checkpoint(self.run.last, self.state(done))
        self.fabric.barrier()  # keep all ranks alive until rank 0 has saved
        self.console.note(f"Stopped after step {done} of {self.total_steps}, checkpoint saved")
        raise self.signals.interruption(f", saved at step {done}")

    def validate(self, log: MetricsLog, progress: Progress) -> None:
        """Evaluate every network after the step ``progress``, write samples and save."""
        done, improved, evaluation = progress.step + 1, False, None
        if self.fabric.world_size > 1:  # evaluate the buffers of rank 0, which are the ones that are saved
            for buffer in self.method.buffers():
                buffer.copy_(self.fabric.broadcast(buffer))
        if self.config.val_every != "never":
            lines, evaluation = evaluate_on_val(self.method, self.run, self.config, self.fabric)
            for line in lines:
                log.write(done, progress.epoch, line)
            network = self.method.default_network
            miou = next(line["miou"] for line in lines if line["network"] == network) or 0.0
            improved = miou > self.best.miou
            if improved:
                self.best = Best(miou, done)
                if self.fabric.is_global_zero:
                    write_confusion(self.run.confusion, self.run.dataset, evaluation, network)
            self.console.validation(done, lines, improved)
            self.watch(evaluation, progress)
        if self.fabric.is_global_zero:
            log.show(done, self.samples.write(self.method, progress, evaluation if improved else None))
            write_resources(self.run.resources, self.method, self.fabric.device, log.time_s())
            log.sync()
            self.save(done, improved)  # last, so that all other files of a saved step exist
        self.method.train()

    def watch(self, evaluation: Evaluation, progress: Progress) -> None:
        """Pass the mIoU of the networks to the safeguard, and print what it changes."""
        if self.safeguard is None:
            return
        miou = {name: matrix.miou_of_shown() or 0.0 for name, matrix in evaluation.matrices.items()}
        judged = [name for name in (self.method.default_network, self.method.labeler(progress)) if name in miou]
        burn_in = burn_in_steps(self.method, self.total_steps)
        if note := self.safeguard.update(progress.step + 1, miou, judged, in_burn_in=progress.step < burn_in):
            self.console.note(note)
        if progress.step + 1 == self.total_steps and 0 < self.best.step <= burn_in:
            self.console.note("The best checkpoint is from the burn-in: the unlabeled images did not help")

    def save(self, done: int, improved: bool) -> None:
        """Write last.pt, best.pt if the validation is the best so far (or there is none), and ``--keep`` copies."""
        state = self.state(done)
        weights_only = {key: value for key, value in state.items() if key != "optimizer"}
        if improved or self.config.val_every == "never":
            save_checkpoint(self.run.best, weights_only)
        save_checkpoint(self.run.last, state)
        if self.config.keep:
            save_checkpoint(self.run.last.with_name(f"step-{done:07d}.pt"), weights_only)
            for old in sorted(self.run.last.parent.glob("step-*.pt"))[: -self.config.keep]:
                old.unlink()

    def state(self, done: int) -> dict[str, Any]:
        """Return everything needed to resume after ``done`` steps."""
        safeguard = {"safeguard": self.safeguard.state()} if self.safeguard else {}
        return safeguard | {
            "format": FORMAT,
            "step": done,
            "best": {"miou": self.best.miou, "step": self.best.step},
            "config": to_mapping(self.config, self.method.options),
            "classes": list(self.run.dataset.classes),
            "palette": [list(color) for color in self.run.dataset.palette],
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }


def train_run(run: RunDirectory, fabric: Fabric, signals: SignalHandler) -> Trainer:
    """Train the run from its last checkpoint, or from the start, to its last step or the first signal."""
    config, options = run.read_config()
    dataset, split = run.dataset, run.split
    state = load_resume_state(run, dataset, split)

    method = make_method(config, options, dataset, weights="none" if state else None)
    read_initial_network.cache_clear()
    if config.class_balance > 0:
        pixels = torch.tensor(check_masks(dataset, split.labeled))
        method.class_weights.copy_(balancing_weights(pixels, config.class_balance))
    if config.batchnorm == "sync" and fabric.world_size > 1:
        method = synchronize_batchnorm(method)
    optimizer = make_optimizer(method, config)
    reader, notes = make_reader(config, dataset, split)
    stream = make_stream(config, dataset, split, fabric, reader)
    epoch_steps = steps_per_epoch(config, split)
    total_steps = planned_steps(config, epoch_steps)

    trusted = hasattr(options, "threshold") and getattr(options, "threshold_mode", "pixel") != "none"
    console = Console(run.log, fabric.is_global_zero, trusted)
    if state:
        for note in notes:  # a new run has printed them already
            console.note(note)
        restore(method, state, config, run.last)
    elif check_first_start(run, first_validation(config, method, total_steps, split)):
        console.note("The run stopped before its first checkpoint. Starting again from step 0.")
    wrapped, wrapped_optimizer = fabric.setup(method, optimizer)
    best, longer = Best(), []
    if state:
        load_optimizer(run.last, optimizer, state["optimizer"])
        best = Best(state["best"]["miou"], state["best"]["step"])
        longer = extension_notes(run, config, state, total_steps, epoch_steps)
        for note in (*longer, *new_labels(run, config)):
            console.note(note)
        on = f" on {fabric.world_size} processes" if fabric.world_size > 1 else ""
        console.note(f"Resuming from step {state['step']} of {total_steps}{on}")
    safeguard, note = start_safeguard(config, method, split, state, bool(longer))
    if note:
        console.note(note)

    trainer = Trainer(
        fabric=fabric,
        config=config,
        run=run,
        method=method,
        wrapped=wrapped,
        optimizer=wrapped_optimizer,
        stream=stream,
        samples=Samples(run.samples, dataset, split, config, fabric.device),
        console=console,
        signals=signals,
        total_steps=total_steps,
        best=best,
        safeguard=safeguard,
    )
    try:
        signals.deferred = True
        with report_write_errors(run.path, checkpoint_bytes(method, config)):
            trainer.fit(state["step"] if state else 0)
    finally:
        signals.deferred = False
        console.close()
    return trainer
