"""``python -m semiseg.training.distributed.rank DIR``: one rank that `launch` has started.

The rank calls the function that DIR names and writes the result, or the error to report, to DIR. The launcher reports
errors, so that each is printed once.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from semiseg.errors import (
    Interrupted,
    ProcessLost,
    ReportedElsewhere,
    TrainingStopped,
    UserError,
    uncaught_os_error,
)


def main(directory: Path) -> int:
    """Run this rank and return its exit status."""
    rank = int(os.environ["RANK"])
    stop_with_launcher()
    if rank:  # before PyTorch is imported: its warnings are the same on all ranks
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    status = 0
    outcome: Any
    try:
        sys.argv, function, arguments = pickle.loads((directory / "call.pkl").read_bytes())
        outcome = function(*arguments)
    except ReportedElsewhere as error:
        outcome = error  # status 0: the launcher must not stop the rank that is about to report it
    except UserError as error:
        outcome, status = error, 2
    except (Interrupted, ProcessLost) as error:
        outcome, status = error, error.status
    except TrainingStopped as error:
        outcome, status = error, 1
    except OSError as error:
        if (outcome := uncaught_os_error(error)) is None:
            raise
        status = 2
    (directory / f"outcome-{rank}.pkl").write_bytes(pickle.dumps(outcome))
    return status


def stop_with_launcher() -> None:
    """Ask Linux to send SIGTERM when the launcher is killed, so that no rank keeps running without it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except KeyboardInterrupt:  # before the function handles signals
        sys.exit(128 + signal.SIGINT)
