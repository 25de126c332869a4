"""Fabric's DDP strategy with our timeout and a fresh store namespace for every attempt of torchrun."""

from __future__ import annotations

import os
import time
import uuid
from datetime import timedelta
from typing import Any

import torch
from lightning_fabric.strategies import DDPStrategy

from semiseg.errors import UserError

# How long a rank waits for another one in a step, PyTorch's default for GPUs. It is the last resort, for a machine that
# lost its power or its network: the launcher stops the ranks of a machine as soon as one of them has died.
TIMEOUT = timedelta(minutes=10)


class Strategy(DDPStrategy):
    """Distributed data parallel training that survives restarts by torchrun (see `attempt`)."""

    def __init__(self) -> None:
        super().__init__(find_unused_parameters=True, timeout=TIMEOUT)

    def _setup_distributed(self) -> None:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            store, rank, world_size = next(torch.distributed.rendezvous("env://", timeout=TIMEOUT))
            device = self.root_device if self.root_device.type != "cpu" else None
            torch.distributed.init_process_group(
                self._get_process_group_backend(),
                store=torch.distributed.PrefixStore(attempt(store, rank, world_size), store),
                rank=rank,
                world_size=world_size,
                timeout=TIMEOUT,
                device_id=device,
            )
        super()._setup_distributed()  # keeps a process group that exists


def attempt(store: Any, rank: int, world_size: int) -> str:
    """Return a store prefix that the ranks of this attempt share and those of earlier attempts do not.

    torchrun keeps one store for all attempts (pytorch/pytorch#135712). Restarted ranks find the addresses of their
    predecessors in it and try to connect to them. The restart count cannot serve as the prefix, because each machine
    counts its own. Therefore, each rank writes a random key, and rank 0 answers with the prefix until all have read it.

    Raises:
        UserError: Not all ranks have started within `TIMEOUT`.
    """
    key = uuid.uuid4().hex
    if rank:
        store.set(f"semiseg {rank}", key)
        prefix = store.get(f"semiseg {rank} {key}").decode()
        store.add(f"semiseg {prefix}", 1)
        return str(prefix)
    deadline = time.monotonic() + TIMEOUT.total_seconds()
    while store.add(f"semiseg {key}", 0) < world_size - 1:
        if time.monotonic() > deadline:
            problem = f"not all of {world_size} ranks have started"
            raise UserError(problem, fix="check the output of torchrun on each machine")
        for other in range(1, world_size):
            if store.check([f"semiseg {other}"]):
                store.set(f"semiseg {other} {store.get(f'semiseg {other}').decode()}", key)
        time.sleep(0.05)
    return key
