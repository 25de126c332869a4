"""From options to a run: resolve them, check all that a run needs, train, go on."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from semiseg.config import TrainConfig, from_mapping
from semiseg.errors import UserError
from semiseg.training.disk_space import told_in_one_line
from semiseg.training.find_method import short_name
from semiseg.training.prepare_run import check_before_trying, prepare
from semiseg.training.resolve_config import resolve
from semiseg.training.run_directory import RunDirectory
from semiseg.workflows.report import report

PLACE = ("devices", "nodes")  # what may be another when a run goes on
T = TypeVar("T")


def train(
    data: str | Path | None = None,
    method: str | None = None,
    out: str | Path | None = None,
    *,
    preset: str | None = None,
    config: str | None = None,
    resume: str | Path | None = None,
    **options: Any,
) -> Path:
    """Train a model and return its run directory.

    Args:
        data: a directory with ``images/`` and ``masks/``, or ``shapes`` for generated images.
        method: the method's name (``semiseg methods``); Dual Teacher where absent.
        out: a new directory; ``runs/DATA-METHOD`` where absent.
        preset: a named set of options (``small``).
        config: a YAML file of options.
        resume: a run to go on with; of the other arguments ``devices`` and ``nodes`` alone may be given with it.
        options: any option of ``semiseg train``, with ``_`` for ``-``.

    Raises:
        UserError: the input is at fault; one line says where and what to do.
    """
    if resume is not None:
        if not options.keys() <= set(PLACE) or any(x is not None for x in (data, method, out, preset, config)):
            raise UserError(f"resume takes all but {' and '.join(PLACE)} from the run: leave the other arguments out")
        return resume_run(resume, **options)
    given = {"data": None if data is None else str(data), "method": method} | options
    settings, method_options = resolve({k: v for k, v in given.items() if v is not None}, preset, config)
    return train_with(settings, method_options, out)


def train_with(config: TrainConfig, options: Any, out: str | Path | None = None) -> Path:
    """Train by a resolved configuration; return the run directory."""
    from semiseg.training.auto_batch_size import settle_batch
    from semiseg.training.distributed.fabric_setup import launched
    from semiseg.training.distributed.launch import placed
    from semiseg.training.distributed.process_group import together
    from semiseg.training.signals import how_to_go_on, interruptible

    path = Path(out) if out else Path("runs") / f"{Path(config.data).name.split(':')[0]}-{short_name(config.method)}"
    config = placed(config)
    with (
        launched(config) as fabric,
        together(fabric, lambda: how_to_go_on(path)) as peers,
        interruptible(path, fabric.is_global_zero, peers.lost) as interruption,
    ):
        settled, found = config, ""
        if config.batch_size == "auto":
            peers.on_first(lambda: check_before_trying(path, config, options, fabric.device))
            settled, found = settle_batch(config, options, fabric, peers)
        run = peers.on_first(lambda: prepare(path, settled, options, found))
        return finish(run or RunDirectory(path), fabric, peers, interruption)


def resume_run(path: str | Path, devices: int | str | None = None, nodes: int | None = None) -> Path:
    """Go on with a run from its last checkpoint, or from its start where there is none yet; elsewhere if asked."""
    from semiseg.training.distributed.fabric_setup import launched
    from semiseg.training.distributed.launch import placed, started_by
    from semiseg.training.distributed.process_group import together
    from semiseg.training.signals import how_to_go_on, interruptible

    run = RunDirectory.open(path)
    config = run.read_config()[0]
    if started_by():  # it says how many there are; the run knows only how many there were
        config = replace(config, devices="auto", nodes=1)
    asked = {name: value for name, value in zip(PLACE, (devices, nodes), strict=True) if value is not None}
    config = placed(from_mapping((TrainConfig,), vars(config) | asked, "options")[0])
    with (
        launched(config) as fabric,
        together(fabric, lambda: how_to_go_on(run.path)) as peers,
        interruptible(run.path, fabric.is_global_zero, peers.lost) as interruption,
    ):
        return finish(run, fabric, peers, interruption)


def finish(run: RunDirectory, fabric: Any, peers: Any, interruption: Any) -> Path:
    """Hold the run, train it to the end and write the report; all but ``run``: as they were opened."""
    from semiseg.training.trainer import train_run

    with ExitStack() as stack:
        stack.enter_context(told_in_one_line(run.path))
        peers.on_first(lambda: warn(stack.enter_context(run.held())))
        peers.require(
            (run.path / "config.yaml").is_file(),
            f"{run.path}: not every machine sees it: choose an --out on a disk that all of them share",
        )
        train_run(run, fabric, interruption)
        peers.part()
        if fabric.is_global_zero:
            report([run.path])
    return run.path


def warn(line: str) -> None:
    """Print a line on stderr, if there is one."""
    if line:
        print(line, file=sys.stderr)
