"""The trainer's end of the writer: starts it, puts records into its ring, and starts another one when it dies."""

import atexit
import errno
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rmtnet.record.child import Child, fill_standard_files
from rmtnet.record.device import DeviceCopies
from rmtnet.ring import FAILED, WAITING, Bytes, Ring
from rmtnet.writer import METRICS, NOTES, Layout

_log = logging.getLogger(__name__)
_MOST_DEATHS, _LONG_AGO = 5, 60.0
_CALL_SECONDS = 0.05


class WriterFailed(OSError):
    """Steps could not be written."""


Values = NDArray[Any] | torch.Tensor | float | None
Piece = tuple[int, Layout, Callable[[Bytes], None]]
"""Kind and layout of a record, and what fills it."""


class Link:
    """A writer, of a run at ``path``, and the ring to it.

    Parameters
    ----------
    size : bytes of the ring
    process : whether the writer is a process; else, and where none can be started, a thread
    """

    def __init__(self, path: Path, size: int, *, commit_seconds: float, process: bool):
        self.path = path
        fill_standard_files()
        self.ring = Ring.create(size)
        self.stalls, self.stalled_seconds = 0, 0.0
        self._commit_seconds, self._process = commit_seconds, process
        self._pid = os.getpid()
        self._opened: tuple[Mapping[str, Any], ...] | None = None
        self._layouts: list[Layout] = []
        self._numbers: dict[Layout, int] = {}
        self._last_layout: tuple[Layout | None, int] = (None, -1)
        self._number = self._deaths = 0
        self._died = -math.inf
        self._called, self._called_at = 0.0, 0
        self.copies: DeviceCopies | None = None
        """Of rows that come from a GPU."""
        self._flying = 0
        """Rows in the ring whose copies have not arrived."""
        self._streaming: int | None = None
        """Where in the ring the row begins that is being sent piece by piece."""
        self._lost = False
        """Whether a writer took pieces of that row along when it died."""
        self._broken = False
        self._start()

    # --- asking

    def open(self, mode: str, attributes: Mapping[str, str | int], options: Mapping[str, Any]) -> None:
        """Make or open the run."""
        self.ask("open", str(self.path), mode, attributes, options, ())
        self._opened = (attributes, options)

    def ask(self, method: str, *arguments: Any) -> Any:
        """The result of a method of the writer, after all that was published before.

        Raises
        ------
        Exception
            What the method raised.
        """
        self.settle(wait=True)
        for _ in range(_MOST_DEATHS):
            if self._broken:
                self._renew()
            try:
                return self._ask(method, *arguments)
            except (EOFError, ConnectionError):
                self._broken = True
        raise WriterFailed(f"{self.path}: the process that writes it dies whenever it starts")

    def _ask(self, method: str, *arguments: Any) -> Any:
        self._number += 1
        self._broken = True  # unless the answer arrives: an interrupt may leave half of one in the pipe
        self.child.connection.send((self._number, method, arguments))
        number, failed, result = self.child.connection.recv()
        assert number == self._number
        self._broken = False
        if failed:
            raise result
        return result

    # --- sending

    def number(self, layout: Layout) -> int:
        """The number of a layout, which the writer is told when it is new."""
        if layout is self._last_layout[0]:
            return self._last_layout[1]  # the usual case: of 102 entries the hash takes its time
        if layout not in self._numbers:
            self.ask("layout", len(self._layouts), layout)
            self._layouts.append(layout)
            self._numbers[layout] = len(self._layouts) - 1
        self._last_layout = layout, self._numbers[layout]
        return self._numbers[layout]

    def reserve(self, kind: int, step: int, layout: int, size: int) -> Bytes:
        """Room for a record in the ring, waited for where the disk is slower than the training.

        Raises
        ------
        WriterFailed
            If there is none because the writer cannot write.
        """
        if self._broken:
            self._renew()
        self.ring.cancel(keep=self._flying)
        room = self.ring.reserve(kind, step, layout, size)
        return self._awaited(kind, step, layout, size) if room is None else room

    def publish(self) -> None:
        """Show the writer what was reserved first; it is called when there is some work for it, not for each row."""
        self.ring.publish()
        if 8 * (self.ring.head - self._called_at) >= self.ring.size or time.monotonic() - self._called >= _CALL_SECONDS:
            self._wake()

    def put(self, kind: int, step: int, number: int, size: int, fill: Callable[[Bytes], None]) -> None:
        """Send a record of ``size`` bytes that ``fill`` fills, of the layout of that :meth:`number`."""
        fill(self.reserve(kind, step, number, size))
        if self._lost:
            return  # what came before it went with a writer
        if self.copies:
            self.copies.close_row()
            self._flying += 1
            self.settle(wait=self._streaming is not None)
        else:
            self.publish()

    def copy(self, values: Values, room: NDArray[Any]) -> None:
        """Copy numbers into the ring; NaN where there are none."""
        if isinstance(values, torch.Tensor) and values.device.type != "cpu":
            if self.copies:
                self.copies.put(values, room)
            else:
                torch.from_numpy(room).copy_(values)
            return
        # numpy's copy: torch's is slow where its threads compete for the cores.
        numbers = np.nan if values is None else values.numpy() if isinstance(values, torch.Tensor) else values
        np.copyto(room, numbers, casting="same_kind")

    def settle(self, *, wait: bool = False) -> None:
        """Show the writer the records whose copies from a GPU have arrived, or await them all."""
        if self.copies:
            for _ in range(self.copies.arrived(wait=wait)):
                self._flying -= 1
                self.publish()

    def stream(self, step: int, pieces: Callable[[], Iterable[Piece]]) -> None:
        """Send a row larger than the ring piece by piece, and wait until it is committed.

        Parameters
        ----------
        pieces : gives the pieces, anew for each attempt: a writer that dies takes those along that it had freed
        """
        begun = time.monotonic()
        try:
            for _ in range(_MOST_DEATHS):
                if self._stream_once(step, pieces):
                    return
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise WriterFailed(
                getattr(error, "errno", None), f"step {step} cannot be written: {reason}", str(self.path)
            ) from error
        finally:
            self._streaming = None
            self._count_stall(begun)
        raise WriterFailed(f"{self.path}: step {step} cannot be written: its writer died again and again")

    def _stream_once(self, step: int, pieces: Callable[[], Iterable[Piece]]) -> bool:
        """Whether no writer died with pieces of the row."""
        self._streaming, self._lost = self.ring.head, False
        for kind, layout, fill in pieces():
            self.put(kind, step, self.number(layout), layout.size, fill)
            if self._lost:
                return False
        self.ask("flush")
        return not self._lost

    def put_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send metrics of a step."""
        self._put_json(METRICS, step, metrics)

    def put_notes(self, step: int, attributes: Mapping[str, Any]) -> None:
        """Send attributes of the run."""
        self._put_json(NOTES, step, attributes)

    def _put_json(self, kind: int, step: int, values: Mapping[str, Any]) -> None:
        text = json.dumps(values).encode()
        self.settle(wait=True)  # records are shown in the order in which they were reserved
        self.reserve(kind, step, 0, len(text))[:] = memoryview(text)
        self.publish()

    @property
    def failed(self) -> bool:
        """Whether the writer has something to say: ask for "failure"."""
        return bool(self.ring.flags[FAILED])

    def _awaited(self, kind: int, step: int, layout: int, size: int) -> Bytes:
        begun = time.monotonic()
        self.ring.flags[WAITING] = 1
        try:
            while (room := self.ring.reserve(kind, step, layout, size)) is None:
                self.settle(wait=True)  # a full ring may hold nothing that the writer sees
                if self.failed:
                    raise WriterFailed(
                        errno.ENOSPC, f"no room for step {step} while nothing is written", str(self.path)
                    )
                self._wake()
                if self._broken or not self.child.is_alive:
                    self._renew()
                time.sleep(5e-4)
            return room
        finally:
            self.ring.flags[WAITING] = 0
            if self._streaming is None:
                self._count_stall(begun)

    def _count_stall(self, begun: float) -> None:
        self.stalls += 1
        self.stalled_seconds += time.monotonic() - begun

    def _wake(self) -> None:
        self._called, self._called_at = time.monotonic(), self.ring.head
        try:
            self.child.call()
        except OSError:
            self._broken = True

    # --- life and death

    def abandon(self) -> None:
        """End the writer; of a run that is open, it commits what the ring holds first, if it can."""
        self._opened = None
        self.child.hang_up()
        if self.copies:
            self.copies.release()
        self.ring.close()
        atexit.unregister(self.close)

    def close(self) -> None:
        """Commit, give the run back and end the writer.

        Raises
        ------
        OSError
            If what the ring holds cannot be written; the writer still tries for some seconds.
        """
        if os.getpid() != self._pid:
            return  # a forked child that ends: the writer is its parent's
        try:
            if self._opened:
                self.ask("close")
        finally:
            self.abandon()

    def _start(self) -> None:
        self.child = Child(self.ring, self._commit_seconds, process=self._process)
        atexit.unregister(self.close)
        atexit.register(self.close)  # a thread is not waited for, and a process tells of what it cannot write

    def _renew(self) -> None:
        """Another writer, which goes on with what the ring holds."""
        if self._opened is None:
            raise WriterFailed(f"{self.path}: the process that writes it died")
        self._deaths = 1 if time.monotonic() - self._died > _LONG_AGO else self._deaths + 1
        self._died = time.monotonic()
        if self._deaths > _MOST_DEATHS:
            raise WriterFailed(f"{self.path}: the process that writes it died {self._deaths} times in a row")
        self.child.hang_up()
        if self._streaming is not None and self.ring.tail > self._streaming:
            # Pieces that it had freed went with it: what is left of that row must not be taken for whole.
            self.ring.free(self.ring.head)
            self._lost = True
        _log.warning("%s: its writer died; another one goes on with what it left", self.path)
        attributes, options = self._opened
        self._start()
        self._broken = False
        try:
            self._ask("open", str(self.path), "resume", attributes, options, self._layouts)
        except (OSError, ValueError) as error:
            self._broken = True
            reason = getattr(error, "strerror", None) or error
            raise WriterFailed(
                errno.EIO, f"its writer died, and the run cannot be opened: {reason}", str(self.path)
            ) from error
