"""A bounded buffer in memory that two processes share: one puts records in, the other takes them out.

A record is put whole and then published, so that a process killed at any moment leaves whole records behind.  What was
taken stays in the ring until it is freed: a reader that dies is followed by another one from there.
"""

import mmap
import os
import tempfile
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
_ALIGN = 64
_HEAD, _TAIL, WAITING, FAILED = range(4)
_SKIP = 0


class Record(NamedTuple):
    """One record, still in the ring."""

    kind: int
    step: int
    layout: int
    payload: Bytes
    end: int
    """Free the ring up to here when the record is no longer needed."""


class Ring:
    """Shared memory of ``size`` bytes for records, and a few flags.

    Parameters
    ----------
    file : descriptor of the memory, which a child process inherits
    """

    def __init__(self, file: int):
        self.file = file
        memory = mmap.mmap(file, 0, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
        self._bytes: Bytes = np.frombuffer(memory, dtype=np.uint8)
        self.flags = self._bytes[:_ALIGN].view(np.int64)
        """Shared numbers: ``flags[WAITING]``, ``flags[FAILED]``."""
        self._data = self._bytes[_ALIGN:]
        self.size = self._data.size
        self._next = self.head
        """Where the next reservation begins."""
        self._reserved: deque[tuple[int, int]] = deque()

    @classmethod
    def create(cls, size: int) -> "Ring":
        """A ring of at least ``size`` bytes, all reserved now: a full memory shows here, not in mid-training."""
        size = -(-size // _ALIGN) * _ALIGN + _ALIGN
        try:
            file = os.memfd_create("rmtnet")
        except (AttributeError, OSError):  # another system, or a sandbox that refuses it
            file, name = tempfile.mkstemp(prefix="rmtnet-")
            os.unlink(name)
        os.posix_fallocate(file, 0, size)
        return cls(file)

    def close(self) -> None:
        """Give up the descriptor; the memory goes with the last view of it."""
        os.close(self.file)

    @property
    def used(self) -> int:
        """Bytes that are published and not freed."""
        return self.head - self.tail

    @property
    def memory(self) -> Bytes:
        """All of it."""
        return self._bytes

    def reserve(self, kind: int, step: int, layout: int, size: int) -> Bytes | None:
        """Room for a record's payload of ``size`` bytes, or None while there is none; :meth:`publish` it, filled."""
        length = _ALIGN + -(-size // _ALIGN) * _ALIGN
        if 2 * length > self.size + _ALIGN:  # it might never fit, wherever an empty ring begins
            raise ValueError(
                f"a record of {size} bytes does not fit into a buffer of {self.size}: enlarge buffer_bytes"
            )
        start = self._next
        left = self.size - start % self.size
        skip = left if left < length else 0
        if start - self.tail + skip + length > self.size:
            return None
        if skip:
            self._header(start)[:4] = (_SKIP, 0, 0, skip)
        head = start + skip
        self._header(head)[:5] = (kind, step, layout, length, size)
        self._reserved.append((start, head + length))
        self._next = head + length
        place = head % self.size + _ALIGN
        return self._data[place : place + size]

    def largest(self, parts: int = 2) -> int:
        """The largest payload of which ``parts`` fit into the ring, wherever the first begins."""
        return self.size // parts // _ALIGN * _ALIGN - _ALIGN

    def publish(self) -> None:
        """Show the reader the first reservation that it does not see yet."""
        _, self.flags[_HEAD] = self._reserved.popleft()

    def cancel(self, keep: int = 0) -> None:
        """Take all reservations back but the first ``keep``: what an interrupt left half filled is never published."""
        while len(self._reserved) > keep:
            self._next, _ = self._reserved.pop()

    def records(self, start: int | None = None) -> Iterator[Record]:
        """Published records from ``start``, by default from the first one that is not freed."""
        position = int(self.flags[_TAIL]) if start is None else start
        while position < int(self.flags[_HEAD]):
            kind, step, layout, length, size = map(int, self._header(position)[:5])
            if not 0 < length <= self.size or length % _ALIGN or self.used > self.size:
                raise ValueError("the memory shared with the training was overwritten: what it held is lost")
            place = position % self.size + _ALIGN
            position += length
            if kind != _SKIP:
                yield Record(kind, step, layout, self._data[place : place + size], position)

    @property
    def tail(self) -> int:
        """Where the first record that is not freed begins."""
        return int(self.flags[_TAIL])

    @property
    def head(self) -> int:
        """Where the next record will begin."""
        return int(self.flags[_HEAD])

    def free(self, end: int) -> None:
        """Give back the room of all records up to ``end``."""
        self.flags[_TAIL] = end

    def _header(self, position: int) -> NDArray[np.int64]:
        start = position % self.size
        return self._data[start : start + _ALIGN].view(np.int64)
