"""Fabric's strategy for several processes, which starts them and leaves it to `peers` to watch over them."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from lightning_fabric.utilities.distributed import _set_num_threads_if_needed

from semiseg.errors import UserError

# How long a process waits for another one in a step: PyTorch's own for GPUs. It is the last resort, where a machine has
# lost its power or its network; a process that ends is noticed within seconds (`peers`).
TIMEOUT = timedelta(minutes=10)


class Launcher(_SubprocessScriptLauncher):
    """Fabric's launcher without its observer.

    Where a process has ended that one kills all others, this one among them, before it could say what happened and how
    to go on. `watch.Watch` does both.
    """

    def launch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Start the other processes of this machine, unless somebody has; then call ``function``."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class Strategy(DDPStrategy):
    """Fabric's averaging of gradients, started by `Launcher`."""

    def __init__(self) -> None:
        super().__init__(find_unused_parameters=True, timeout=TIMEOUT)

    def _configure_launcher(self) -> None:
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def _setup_distributed(self) -> None:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            store, rank, world = next(torch.distributed.rendezvous("env://", timeout=TIMEOUT))
            device = self.root_device if self.root_device.type != "cpu" else None
            torch.distributed.init_process_group(
                self._get_process_group_backend(),
                store=torch.distributed.PrefixStore(attempt(store, rank, world), store),
                rank=rank,
                world_size=world,
                timeout=TIMEOUT,
                device_id=device,
            )
        super()._setup_distributed()  # which leaves a group that is there as it is


def attempt(store: Any, rank: int, world: int) -> str:
    """Return a name that only the processes which are at work now have in common.

    torchrun keeps one store for all its attempts (pytorch/pytorch#135712): processes that it starts anew find in it
    where those before them could be reached, and try to. Its count of restarts is each machine's own. So each process
    leaves a word of its own, which the first one answers with the name, until as many as there should be have it.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"semiseg {rank}", mine)
        name = store.get(f"semiseg {rank} {mine}").decode()
        store.add(f"semiseg {name}", 1)
        return str(name)
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while store.add(f"semiseg {mine}", 0) < world - 1:
        if time.monotonic() > deadline:
            raise UserError(f"not all of {world} processes have come: see what torchrun says on each machine")
        for other in range(1, world):
            if store.check([f"semiseg {other}"]):
                store.set(f"semiseg {other} {store.get(f'semiseg {other}').decode()}", mine)
        time.sleep(0.05)
    return mine
