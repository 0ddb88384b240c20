"""A writer at work: a process, or where none can be started a thread."""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

from rmtnet.ring import Ring
from rmtnet.writer import Writer, serve

_log = logging.getLogger(__name__)
_PATIENCE = 60.0
"""Seconds that a writer which is to end has for committing what the ring holds."""


class Child:
    """Starts a writer of what is in ``ring``; ``connection`` is for asking it."""

    def __init__(self, ring: Ring, commit_seconds: float, *, process: bool):
        self.connection, theirs = Pipe()
        wake, self._bell = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._bell, False)
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None
        if process:
            try:
                self._process = _started([ring.file, theirs.fileno(), wake], commit_seconds)
            except OSError as error:
                _log.warning("no process can be started (%s): a thread writes", error)
        if self._process:
            theirs.close()
            os.close(wake)
        else:
            arguments = (Writer(ring, commit_seconds), theirs, wake)
            self._thread = threading.Thread(target=_serve, args=arguments, daemon=True, name="rmtnet writer")
            self._thread.start()

    @property
    def pid(self) -> int:
        """Of the process that writes."""
        return self._process.pid if self._process else os.getpid()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended."""
        if self._process:
            return self._process.poll() is None
        return self._thread is not None and self._thread.is_alive()

    def call(self) -> None:
        """Have it look into the ring.

        Raises
        ------
        OSError
            If it is no more.
        """
        with contextlib.suppress(BlockingIOError):  # it has been called often enough
            os.write(self._bell, b"\0")

    def hang_up(self) -> None:
        """Have it end, and wait until it has committed what the ring holds."""
        with contextlib.suppress(OSError):
            self.connection.close()
        with contextlib.suppress(OSError):
            os.close(self._bell)
        if self._process:
            # Forked children may hold the other end open: then it is told by a signal.
            for seconds, more in ((1.0, self._process.terminate), (_PATIENCE, self._process.kill)):
                try:
                    self._process.wait(seconds)
                    return
                except subprocess.TimeoutExpired:
                    more()
            self._process.wait()
        elif self._thread:
            self._thread.join(_PATIENCE)


def fill_standard_files() -> None:
    """Where a training was started without them, what is opened next must not become standard output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _started(descriptors: Sequence[int], commit_seconds: float) -> "subprocess.Popen[bytes]":
    """The process: in a session of its own, for Ctrl-C is meant for the training."""
    home = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # glibc would give the memory of every chunk back to the system and fetch it anew: a third of the writer's time.
    memory = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**27)}
    arguments = [*map(str, descriptors), str(os.getpid()), str(commit_seconds)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "rmtnet.writer", *arguments],
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, **threads, **memory, "PYTHONPATH": path},
    )


def _serve(writer: Writer, connection: "Connection[object, object]", wake: int) -> None:
    try:
        serve(writer, connection, wake, lambda: False)
    finally:
        connection.close()
        os.close(wake)
