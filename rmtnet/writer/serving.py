"""Writing until there is nothing more to write for."""

import contextlib
import os
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from rmtnet.writer.work import Writer

_LOOK = 0.5
"""Seconds after which an idle writer looks whether its trainer lives: a forked child may hold the connection open."""


def serve(writer: Writer, connection: Connection, wake: int, is_over: Callable[[], bool]) -> None:
    """Write until the trainer closes the run, or is no more.

    Parameters
    ----------
    wake : descriptor that becomes readable when something was published
    is_over : whether the trainer is no more, or this process is to end
    """
    while True:
        try:
            wait([connection, wake], _LOOK)
            _drain(wake)
            if connection.poll():
                request = connection.recv()
                if _answer(writer, connection, *request):
                    return
            writer.take()
            writer.commit_in_time()
            if is_over():
                raise EOFError
        except (EOFError, ConnectionError):
            writer.end()
            return


def _answer(writer: Writer, connection: Connection, number: int, method: str, arguments: tuple[Any, ...]) -> bool:
    """Whether that was the end."""
    try:
        reply = (number, False, getattr(writer, method)(*arguments))
    except Exception as error:
        reply = (number, True, error)
    connection.send(reply)
    return method == "close" and not reply[1]


def _drain(wake: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(wake, 65536):
            pass
