"""Commands in processes of their own, forked from one that has imported semiseg: they start in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["semiseg.training.trainer", "semiseg.training.distributed.fabric_setup", "semiseg.cli"])


class Command:
    """``semiseg ARGUMENTS`` in a new session, with SIGINT as in a terminal.

    Args:
        arguments: The command and its options.
        stderr: A file for both streams.
        environment: The environment variables. Default: those of this process.

    Attributes:
        pid: The id of the process and of its process group.
    """

    def __init__(self, arguments: list[str], stderr: Path, environment: Mapping[str, str] | None = None) -> None:
        self.file = stderr
        given = dict(environment or os.environ) | {"OMP_NUM_THREADS": "1"}
        self.process = CONTEXT.Process(target=run_command, args=(arguments, str(stderr), os.getcwd(), given))
        self.process.start()
        assert self.process.pid is not None
        self.pid = self.process.pid

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None if the process is running."""
        return self.process.exitcode

    def finish(self, timeout: float = 240) -> tuple[int, str]:
        """Wait for the end; return the exit status and the output."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, self.output()
        return self.process.exitcode, self.output()

    def output(self) -> str:
        """Return what the process has printed so far."""
        return self.file.read_text() if self.file.exists() else ""


def run_command(arguments: list[str], output: str, directory: str, environment: dict[str, str]) -> None:
    """Run a command in the current process, which was just forked, and exit with its status."""
    multiprocessing.set_start_method(None, force=True)  # of data loading workers: the default of the system
    os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    with open(output, "wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["semiseg", *arguments]
    from semiseg import cli

    sys.exit(cli.main())
