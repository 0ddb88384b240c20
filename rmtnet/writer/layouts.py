"""What the records of the ring hold."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtnet.spectra import singular_values
from rmtnet.store.precision import rounded

ROWS, PIECE, METRICS, NOTES = 1, 2, 3, 4
"""Kinds: whole rows; a piece of one; metrics, or attributes of the run, as JSON."""


@dataclass(frozen=True)
class Entry:
    """One variable's part of a record."""

    group: str
    axis: str
    variable: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    piece: int | None = None
    """Which of the chunks that cut the row; None for a whole row."""
    spectrum: bool = False
    """Whether the singular values of what is there are stored, not itself."""
    precision: str | None = None

    @cached_property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def values(self, payload: NDArray[np.uint8]) -> NDArray[Any]:
        """A view of the variable's part."""
        return payload[self.offset : self.offset + self.size].view(self.dtype).reshape(self.shape)

    def stored(self, payload: NDArray[np.uint8]) -> NDArray[Any]:
        """What is put into the store."""
        values = self.values(payload)
        if not self.spectrum:
            return rounded(values, self.precision)
        blocks, *sides = self.shape
        if not np.isfinite(values).all():  # a training that diverged goes on being recorded
            return np.full((blocks, min(sides)), np.nan)
        return singular_values(values)


@dataclass(frozen=True)
class Layout:
    """What a record holds."""

    entries: tuple[Entry, ...]
    streamed: tuple[tuple[str, str], ...] = ()
    """(group, axis) of the rows whose pieces came before, and that are whole now."""

    @cached_property
    def size(self) -> int:
        """Bytes."""
        return max((entry.offset + entry.size for entry in self.entries), default=0)

    @cached_property
    def axes(self) -> set[tuple[str, str]]:
        """(group, axis) of the rows."""
        return {*self.streamed, *((entry.group, entry.axis) for entry in self.entries)}
