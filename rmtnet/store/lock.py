"""One writer a run: an advisory lock that dies with the process that holds it."""

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

_WAIT = 10.0
owner: int | None = None
"""The process for which this one writes; None if for itself."""


class RunLocked(OSError):
    """Another process is writing this run."""


def acquire(run: Path) -> IO[str]:
    """Lock ``run`` for writing and return the open lock file: closing it gives the lock back.

    A writer that is just ending has ten seconds for it.

    Raises
    ------
    RunLocked
        If another process still holds the lock then; it names pid and host.
    """
    file = open(run / ".lock", "a+")  # noqa: SIM115  the caller keeps it open
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            check(run, file)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise RunLocked(f"{run}: {_held_by(file)}, or record elsewhere") from None
            time.sleep(0.05)
    file.truncate(0)
    file.write(f"pid {owner or os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def check(run: Path, file: IO[str]) -> None:
    """Refuse to write where the run that was locked no longer is.

    Raises
    ------
    FileNotFoundError
        If the run was moved or removed; there may be another one in its place.
    """
    held = os.fstat(file.fileno())
    try:
        there = os.stat(run / ".lock")
    except FileNotFoundError:
        there = None
    if there is None or (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino):
        raise FileNotFoundError(2, "the run was moved or removed while it was written", str(run))


def _held_by(file: IO[str]) -> str:
    with file:
        file.seek(0)
        held = file.read().strip() or "an unknown process"
    if held == f"pid {owner or os.getpid()} on {socket.gethostname()}":
        return f"this process ({held}) is writing this run already; close its other recorder"
    return f"{held} is writing this run; stop it"
