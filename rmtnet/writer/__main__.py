"""The process."""

import os
import signal
import sys
from multiprocessing.connection import Connection

from rmtnet.ring import Ring
from rmtnet.store import lock
from rmtnet.writer.serving import serve
from rmtnet.writer.work import Writer


def main(ring: int, connection: int, wake: int, trainer: int, commit_seconds: float) -> None:
    """The process: its arguments are descriptors that it inherited, and the trainer's number."""
    lock.owner = trainer
    told = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    serve(
        Writer(Ring(ring), commit_seconds), Connection(connection), wake, lambda: bool(told) or os.getppid() != trainer
    )


if __name__ == "__main__":
    ring, connection, wake, trainer = map(int, sys.argv[1:5])
    main(ring, connection, wake, trainer, float(sys.argv[5]))
