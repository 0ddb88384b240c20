"""Which rows are due together, and how they are put into the ring."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rmtnet import ranks
from rmtnet.record.link import Link, Piece, Values, WriterFailed
from rmtnet.record.sources import Source
from rmtnet.ring import Bytes
from rmtnet.writer import PIECE, ROWS, Entry, Layout

_ALIGN = 64


@dataclass(frozen=True, eq=False)
class Column:
    """One variable of a row, and where its numbers come from."""

    entry: Entry
    values: Callable[[], Values]

    @property
    def is_matrix(self) -> bool:
        """Whether it may be too large for the ring."""
        return len(self.entry.shape) == 3


class Frame:
    """The rows of some columns, at whatever step they are sent."""

    def __init__(self, columns: Sequence[Column], link: Link | None):
        self._link = link
        # All ranks gather what is sharded in this order.
        self._columns = sorted(columns, key=lambda column: not column.is_matrix)
        self.layout = _packed(self._columns)
        self._filled = _filled(self._columns, self.layout)
        self.axes = [f"{group}/{axis}" for group, axis in sorted(self.layout.axes)]
        self.is_streamed = link is not None and self.layout.size > link.ring.largest()

    def send(self, step: int) -> None:
        """Put the row of a step into the ring."""
        if self._link is None:
            for column in self._columns:
                column.values()
        elif self.is_streamed:
            attempts = itertools.count()
            self._link.stream(step, lambda: self._pieces(next(attempts)))
        else:
            self._link.put(
                ROWS, step, self._link.number(self.layout), self.layout.size, partial(self._fill, self._filled)
            )

    def _fill(self, filled: Sequence[tuple[Column, Entry]], room: Bytes) -> None:
        assert self._link is not None
        for column, entry in filled:
            self._link.copy(column.values(), entry.values(room))

    def _pieces(self, attempt: int) -> Iterator[Piece]:
        """Matrices cut as their chunks are; then the rest, with which the row is whole."""
        assert self._link is not None
        if attempt and ranks.is_distributed():
            raise WriterFailed(f"{self._link.path}: its writer died, and sharded layers cannot be gathered again")
        large = [column for column in self._columns if column.is_matrix]
        for column in large:
            values = column.values()
            for number, place in enumerate(self._link.ask("pieces", column.entry.group, column.entry.variable)):
                yield PIECE, *self._piece(column.entry, values, number, place)
        small = self._columns[len(large) :]
        axes = tuple(dict.fromkeys((column.entry.group, column.entry.axis) for column in large))
        layout = replace(_packed(small), streamed=axes)
        yield ROWS, layout, partial(self._fill, _filled(small, layout))

    def _piece(
        self, entry: Entry, values: Values, number: int, place: tuple[slice, ...]
    ) -> tuple[Layout, Callable[[Bytes], None]]:
        assert self._link is not None
        link = self._link
        shape = tuple(len(range(*part.indices(size))) for part, size in zip(place, entry.shape, strict=True))
        cut = replace(entry, shape=shape, offset=0, piece=number)
        part = values if values is None or isinstance(values, float) else values[place]
        return Layout((cut,)), lambda room: link.copy(part, cut.values(room))


def columns(source: Source, group: str, *, in_writer: bool) -> list[Column]:
    """The variables of a quantity of a layer.

    Parameters
    ----------
    in_writer : whether the writer calculates singular values, from weights that are sent to it
    """
    specs = source.specs(group)

    def entry(place: int = 0, **changes: Any) -> Entry:
        spec = specs[place]
        plain = Entry(group, spec.axis, spec.variable, spec.shape, str(spec.dtype), 0)
        return replace(plain, **changes) if changes else plain

    match group:
        case "moments":
            return [Column(entry(k), partial(source.moment, k)) for k in range(len(specs))]
        case "spectra" if in_writer:
            matrix = source.specs("weights")[0]
            return [Column(entry(shape=matrix.shape, dtype=str(source.matrix.dtype), spectrum=True), source.weights)]
        case "spectra":
            return [Column(entry(), source.spectrum)]
        case "norms":
            return [Column(entry(), source.norm)]
        case "gates":
            return [Column(entry(), lambda: source.matrix.gates)] if specs else []
    values: Callable[[], Values] = {"weights": source.weights, "gradients": source.gradient, "updates": source.update}[
        group
    ]
    precision = source.precision if group == "weights" else None
    return [Column(entry(dtype=str(source.matrix.dtype), precision=precision), values)]


def _packed(columns: Sequence[Column]) -> Layout:
    """Entries one after another; the singular values of weights that are there too are taken from those."""
    entries: list[Entry] = []
    weights: dict[str, int] = {}
    offset = 0
    for column in columns:
        shared = weights.get(column.entry.variable) if column.entry.spectrum else None
        entries.append(replace(column.entry, offset=offset if shared is None else shared))
        if shared is None:
            offset += -(-entries[-1].size // _ALIGN) * _ALIGN
        if column.entry.group == "weights":
            weights[column.entry.variable] = entries[-1].offset
    return Layout(tuple(entries))


def _filled(columns: Sequence[Column], layout: Layout) -> list[tuple[Column, Entry]]:
    """The columns that are copied: one for each place in the record."""
    first = {entry.offset: (column, entry) for column, entry in reversed([*zip(columns, layout.entries, strict=True)])}
    return [*reversed(first.values())]
