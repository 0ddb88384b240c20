"""The process."""

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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    writer = Writer(Ring(ring), commit_seconds)
    try:
        serve(writer, Connection(connection), wake, trainer)
    except SystemExit:
        writer.end()


if __name__ == "__main__":
    ring, connection, wake, trainer = map(int, sys.argv[1:5])
    main(ring, connection, wake, trainer, float(sys.argv[5]))
