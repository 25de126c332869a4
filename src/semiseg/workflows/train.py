"""Train a model: resolve the options, create or resume the run, train, write the report."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from semiseg.config import TrainConfig, from_mapping, read_yaml, to_mapping
from semiseg.data.stream.main_module import require_main_process
from semiseg.errors import Interrupted, UserError
from semiseg.tools.planning.plan_text import format_plan, parse_time
from semiseg.tools.planning.plan_training import plan_training
from semiseg.tools.planning.planner import LENGTHS, Plan
from semiseg.training.change_run import RunChanges, change_run
from semiseg.training.disk_space import report_write_errors
from semiseg.training.distributed.external_launcher import check_world_size, find_launcher, world_size
from semiseg.training.find_method import find_method, short_name
from semiseg.training.prepare_run import check_auto_batch_size, create_run
from semiseg.training.resolve_config import complete, given_options, resolve
from semiseg.training.run_directory import RunDirectory
from semiseg.training.signals import SignalHandler, handle_signals, resume_hint
from semiseg.workflows.report import report

CHANGEABLE = RunChanges._fields
"""The options that may be given with ``resume``."""


def train(
    data: str | Path | None = None,
    method: str | None = None,
    out: str | Path | None = None,
    *,
    preset: str | None = None,
    config: str | None = None,
    resume: str | Path | None = None,
    time: str | float | None = None,
    **options: Any,
) -> Path:
    """Train a model and return its run directory.

    Without ``time``, options that are not given have their defaults (2000 steps).

    Args:
        data: A directory with ``images/`` and ``masks/``, or ``shapes`` for generated images.
        method: Name of the method (see ``semiseg methods``). Default: Dual Teacher.
        out: A new directory. Default: ``runs/DATA-METHOD``.
        preset: A named set of options (``small``).
        config: A YAML file of options.
        resume: A run to resume. Of the other arguments, only ``devices``, ``nodes``, ``steps`` (more than before), and
            ``data`` and ``unlabeled`` (if they moved) may be given with it.
        time: A time budget, such as ``"20m"``, or seconds, or ``"auto"`` for that of the device. Options that are not
            given are planned for it.
        options: Any option of ``semiseg train``, with ``_`` for ``-``.

    Raises:
        UserError: The input is invalid. The message says what to fix.
    """
    if resume is not None:
        if not options.keys() <= set(CHANGEABLE) or any(x is not None for x in (method, out, preset, config, time)):
            problem = f"takes all arguments except {', '.join(CHANGEABLE)} from the run"
            raise UserError(problem, option="--resume", fix="leave the other arguments out")
        return resume_run(resume, RunChanges(data=data, **options))
    given = {"data": None if data is None else str(data), "method": method} | options
    given = {k: v for k, v in given.items() if v is not None}
    if time is not None:
        return train_planned(given_options(given, preset, config), out, time)
    settings, method_options = resolve(given, preset, config)
    return train_with(settings, method_options, out)


def train_planned(given: Mapping[str, Any], out: str | Path | None = None, time: str | float | None = None) -> Path:
    """Plan a new run, train it and return its directory.

    Args:
        given: The given options, as from `given_options`.
        out: The run directory.
        time: The time budget. Default: that of the device.
    """
    require_main_process()
    if out:
        RunDirectory.refuse_existing(out)  # before the plan takes seconds
    plan = make_plan(given, time)
    values = plan.values | dict(given)
    config, options = from_mapping((TrainConfig, find_method(values["method"]).Options), values, "options")
    return train_with(config, options, out, plan)


def is_planned(config: str | None) -> bool:
    """Return whether the command line plans a run without ``--time``.

    A file that gives the length is complete, and a launcher's processes could not agree on a plan.
    """
    complete = config is not None and any(name in read_yaml(Path(config)) for name in LENGTHS)
    return not complete and find_launcher() is None


def make_plan(given: Mapping[str, Any], time: str | float | None = None) -> Plan:
    """Plan a run with the given options, which win.

    Raises:
        UserError: The data or an option is invalid, or a launcher has started several processes.
    """
    if find_launcher() is not None:
        fix = "pass --steps, or start without the launcher, with --devices"
        raise UserError("a plan is made by one process, not under torchrun or srun", option="time", fix=fix)
    lengths = [name for name in LENGTHS if given.get(name)]
    if time not in (None, "auto") and lengths:
        raise UserError(f"cannot be combined with --{lengths[0]}", option="time", fix="pass one of them")
    return plan_training(given, None if time in (None, "auto") else parse_time(time or 0))


def train_with(config: TrainConfig, options: Any, out: str | Path | None = None, plan: Plan | None = None) -> Path:
    """Train a new run with a resolved configuration and return its directory; the run keeps its plan."""
    require_main_process()
    config = complete(config)
    path = Path(out) if out else Path("runs") / f"{Path(config.data).name.split(':')[0]}-{short_name(config.method)}"
    if not out:
        print(f"run directory: {path}", file=sys.stderr)
    return train_on_all_ranks(path, check_world_size(config), options, plan=plan.to_json() if plan else None)


def resume_run(path: str | Path, changes: RunChanges) -> Path:
    """Resume a run from its last checkpoint, or from its start if there is none, and return its directory."""
    require_main_process()
    run = RunDirectory.open(path)
    config, options = run.read_config()
    if find_launcher():  # the launcher decides, whatever the run was started with
        config = replace(config, devices="auto", nodes=1)
    given = {name: getattr(changes, name) for name in ("devices", "nodes", "steps")}
    given = {name: value for name, value in given.items() if value is not None}
    checked = from_mapping((TrainConfig,), vars(config) | {"epochs": None} | given, "options")[0]
    config = check_world_size(replace(config, devices=checked.devices, nodes=checked.nodes))
    return train_on_all_ranks(run.path, config, options, changes)


def train_on_all_ranks(
    path: Path,
    config: TrainConfig,
    options: Any,
    resume: RunChanges | None = None,
    plan: Mapping[str, Any] | None = None,
) -> Path:
    """Train in this process, or start the ranks that ``config`` asks for and train on them; return ``path``.

    Args:
        path: The run directory.
        config: The run's configuration.
        options: The method's options.
        resume: The changes of a run that is resumed; None for a new run.
        plan: The content of plan.json.
    """
    if world_size(config) == 1 or find_launcher():
        train_rank(path, config, options, resume, plan)
    else:
        from semiseg.training.distributed.launch import launch

        if not resume:
            RunDirectory.refuse_existing(path)  # before the ranks take seconds to start
        arguments = (path, to_mapping(config, options), resume, plan)
        devices = 1 if config.devices == "auto" else config.devices
        try:
            launch(train_launched_rank, arguments, devices, config.nodes, lambda: resume_hint(path))
        except KeyboardInterrupt as error:  # a further Ctrl-C while the ranks stop
            if isinstance(error, Interrupted):
                raise
            raise Interrupted(f"interrupted by SIGINT. {resume_hint(path)}", 128 + signal.SIGINT) from None
    return path


def train_launched_rank(
    path: Path, values: Mapping[str, Any], resume: RunChanges | None, plan: Mapping[str, Any] | None
) -> None:
    """Train on one rank; ``values`` are those of the configuration, since options may not be picklable."""
    kinds = (TrainConfig, find_method(values["method"]).Options)
    config, options = from_mapping(kinds, values, "options")
    train_rank(path, config, options, resume, plan)


def train_rank(
    path: Path, config: TrainConfig, options: Any, resume: RunChanges | None, plan: Mapping[str, Any] | None
) -> None:
    """Create the run, or change the run that is resumed; train it to the end, and write its report; on one rank."""
    from semiseg.training.auto_batch_size import find_batch_size
    from semiseg.training.distributed.fabric_setup import launched
    from semiseg.training.distributed.process_group import process_group
    from semiseg.training.trainer import train_run

    with (
        launched(config) as fabric,
        process_group(fabric, lambda: resume_hint(path)) as group,
        handle_signals(signals := SignalHandler(path, group.rank, group.world_size)),
        ExitStack() as stack,
    ):
        created, note = None, ""
        if resume is None:
            if config.batch_size == "auto":
                group.on_rank_zero(lambda: check_auto_batch_size(path, config, options, fabric.device))
                config, note = find_batch_size(config, options, fabric, group)
            notes = [*(format_plan(plan) if plan else ()), *filter(None, [note])]
            created = group.on_rank_zero(lambda: create_run(path, config, options, "\n".join(notes), plan))
        run = created or RunDirectory(path)
        stack.enter_context(report_write_errors(path))
        if warning := group.on_rank_zero(lambda: stack.enter_context(run.lock())):
            print(warning, file=sys.stderr)
        missing = UserError("is not visible on every machine", path=path, fix="choose an --out on a shared disk")
        group.require((path / "config.yaml").is_file(), missing)
        if resume is not None:
            group.on_rank_zero(lambda: change_run(run, resume))
        train_run(run, fabric, signals)
        group.barrier()
        if group.rank == 0:
            report([path])
