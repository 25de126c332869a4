"""Commands in processes of their own, forked from one that has imported semiseg: they start in milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["semiseg.training.trainer", "semiseg.training.distributed.fabric_setup", "semiseg.cli"])


class Command:
    """``semiseg ARGUMENTS`` in a new session, with SIGINT as in a terminal.

    Args:
        arguments: The command and its options.
        stderr: A file for both streams, or for stderr only if ``stdout`` is given.
        environment: The environment variables. Default: those of this process.
        stdout: A file for stdout.
        module: The module to run, as by ``python -m``.

    Attributes:
        pid: The id of the process and of its process group.
    """

    def __init__(
        self,
        arguments: list[str],
        stderr: Path,
        environment: Mapping[str, str] | None = None,
        stdout: Path | None = None,
        module: str = "semiseg.cli",
    ) -> None:
        self.file = stderr
        given = dict(environment or os.environ) | {"OMP_NUM_THREADS": "1"}
        files = (str(stdout or stderr), str(stderr))
        for path in files:
            Path(path).write_bytes(b"")
        self.process = CONTEXT.Process(target=run_command, args=(module, arguments, files, os.getcwd(), given))
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


class ForkedPopen:
    """The part of ``subprocess.Popen`` that a comparison uses, for ``python -m MODULE ARGUMENTS``."""

    def __init__(self, command: list[str], stdout: IO[bytes], env: Mapping[str, str], **_: Any) -> None:
        _python, _option, module, *arguments = command
        files = (stdout.name, stdout.name)
        self.process = CONTEXT.Process(target=run_command, args=(module, arguments, files, os.getcwd(), dict(env)))
        self.process.start()
        self.pid = self.process.pid

    def wait(self) -> int | None:
        """Wait for the end and return the exit status."""
        self.process.join()
        return self.process.exitcode


def run_command(
    module: str, arguments: list[str], outputs: tuple[str, str], directory: str, environment: dict[str, str]
) -> None:
    """Run a module in the current process, which was just forked, as ``python -m MODULE ARGUMENTS`` does."""
    multiprocessing.set_start_method(None, force=True)  # of data loading workers: the default of the system
    os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in enumerate(outputs, 1):
        with open(path, "ab") as file:
            os.dup2(file.fileno(), stream)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
