"""The command line, one function per command. Commands import heavy packages when they run, so --help is fast."""

from __future__ import annotations

import io
import os
import select
import sys
import warnings
from collections.abc import Callable

from semiseg.cli.check import check
from semiseg.cli.compare import compare
from semiseg.cli.demo import demo
from semiseg.cli.evaluate import evaluate
from semiseg.cli.export import export
from semiseg.cli.import_data import import_data
from semiseg.cli.list_commands import datasets, methods, networks
from semiseg.cli.option_parsing import Argv
from semiseg.cli.predict import predict
from semiseg.cli.prepare import prepare
from semiseg.cli.report import report
from semiseg.cli.reproduce import reproduce
from semiseg.cli.serve import serve
from semiseg.cli.split import split
from semiseg.cli.suggest import suggest
from semiseg.cli.train import train
from semiseg.config import DeprecatedOption
from semiseg.errors import Interrupted, ProcessLost, ReportedElsewhere, UserError, lookup, printable, uncaught_os_error
from semiseg.version import __version__

PIPE_CLOSED = 141  # 128 + SIGPIPE, the status of a program that the signal terminates

COMMANDS: dict[str, Callable[[Argv], None]] = {
    "demo": demo,
    "import": import_data,
    "check": check,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "compare": compare,
    "reproduce": reproduce,
    "report": report,
    "suggest": suggest,
    "export": export,
    "serve": serve,
    "split": split,
    "prepare": prepare,
    "methods": methods,
    "networks": networks,
    "datasets": datasets,
}


def usage() -> str:
    """Return the text of ``semiseg --help``."""
    lines = ["usage: semiseg COMMAND [OPTIONS]", "", "Few masks and many images in, a trained model out.", ""]
    lines += [f"  {name:<12}{function.__doc__}" for name, function in COMMANDS.items()]
    more = "semiseg COMMAND --help lists the options of a command; semiseg --version prints the version."
    return "\n".join([*lines, "", more])


def main() -> int:
    """Run the command line.

    Returns:
        The exit status: 0 success, 1 a bug or failed runs, 2 the input is invalid, 128 + N signal N.
    """
    argv = sys.argv[1:]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # class names may not be printable on this terminal
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(f"semiseg {__version__}")
        return 0
    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged files are reported in one line of our own
    warnings.simplefilter("once", DeprecatedOption)
    warnings.formatwarning = format_warning
    try:
        lookup("command", argv[0], COMMANDS)(argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # as in: semiseg methods | head
        if not stdout_is_closed():
            raise  # another pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        return PIPE_CLOSED
    except ReportedElsewhere:
        return 0  # a launcher that sees a failure kills the rank that is about to print the error
    except UserError as error:
        return fail(error, 2)
    except OSError as error:
        if not (known := uncaught_os_error(error)):
            raise
        return fail(known, 2)
    except (Interrupted, ProcessLost) as stopped:
        return fail(stopped, stopped.status)
    except KeyboardInterrupt:
        hint = ". Run the same command again to resume." if argv[0] in ("compare", "reproduce") else ""
        return fail(f"interrupted{hint}", 130)
    except RuntimeError as error:
        if type(error).__name__ not in ("TrainingStopped", "CellsFailed"):  # importing them would import torch
            raise
        return fail(error, 1)
    return 0


def fail(message: object, status: int) -> int:
    """Print an error as one line on stderr and return the exit status."""
    print(f"semiseg: {printable(str(message))}", file=sys.stderr)
    return status


default_format = warnings.formatwarning


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Format the warning of a deprecated option as one line, and others as Python does."""
    if issubclass(category, DeprecatedOption):
        return f"semiseg: {message}\n"
    return default_format(message, category, filename, lineno, line)


def stdout_is_closed() -> bool:
    """Return whether standard output is a pipe whose reader has exited."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are always reported
    return bool(poll.poll(0))
