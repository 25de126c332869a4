"""The command line: one function a command. Heavy imports wait until a command runs, so that --help is instant."""

from __future__ import annotations

import io
import os
import select
import sys
import warnings
from collections.abc import Callable

from semiseg import __version__
from semiseg.cli.check import check
from semiseg.cli.compare import compare
from semiseg.cli.demo import demo
from semiseg.cli.list_commands import datasets, methods, networks
from semiseg.cli.option_parsing import Argv
from semiseg.cli.prepare import prepare
from semiseg.cli.serve import serve
from semiseg.cli.split import split
from semiseg.cli.suggest import suggest
from semiseg.cli.train import train
from semiseg.cli.use import evaluate, export, predict, report
from semiseg.errors import Interrupted, ProcessLost, ReportedElsewhere, UserError, lookup, printable, uncaught_os_error

PIPE_CLOSED = 141  # 128 + SIGPIPE, as of a program that the signal ends

COMMANDS: dict[str, Callable[[Argv], None]] = {
    "demo": demo,
    "check": check,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "compare": compare,
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
    return "\n".join([*lines, "", "semiseg COMMAND --help tells a command's options; semiseg --version the version."])


def main() -> int:
    """Run the command line; return the exit status: 0 fine, 2 the input is at fault, 1 we are, 128 + N a signal."""
    argv = sys.argv[1:]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a class named in letters that the terminal does not have
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(f"semiseg {__version__}")
        return 0
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what is wrong with a file is our own one line
    try:
        lookup("command", argv[0], COMMANDS)(argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # who read our output has seen enough: semiseg methods | head
        if not reader_is_gone():
            raise  # another pipe than ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        return PIPE_CLOSED
    except ReportedElsewhere:
        return 0  # a launcher that sees a process fail kills the one that is about to tell why
    except UserError as error:
        print(f"semiseg: {printable(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if not (known := uncaught_os_error(error)):
            raise
        print(f"semiseg: {printable(str(known))}", file=sys.stderr)
        return 2
    except (Interrupted, ProcessLost) as ended:
        print(f"semiseg: {ended}", file=sys.stderr)
        return ended.status
    except KeyboardInterrupt:
        how = "; it goes on by the same command again" if argv[0] == "compare" else ""
        print(f"semiseg: interrupted{how}", file=sys.stderr)
        return 130
    except RuntimeError as error:
        if type(error).__name__ not in ("TrainingStopped", "CellsFailed"):
            raise
        print(f"semiseg: {error}", file=sys.stderr)
        return 1
    return 0


def reader_is_gone() -> bool:
    """Tell whether standard output is a pipe that nobody reads any more."""
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)  # errors are told unasked
    return bool(poll.poll(0))
