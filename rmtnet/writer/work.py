"""What the writer does with one run."""

import contextlib
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtnet.ring import FAILED, WAITING, Record, Ring
from rmtnet.store import lock
from rmtnet.store.schema import rows_a_chunk
from rmtnet.store.writing import Form, RunWriter
from rmtnet.writer.layouts import METRICS, NOTES, PIECE, ROWS, Layout

_RETRY = 1.0
_ATTEMPTS = 3


class Writer:
    """Takes records out of a ring and commits them; what is not committed stays there."""

    def __init__(self, ring: Ring, commit_seconds: float = 10.0):
        self.ring = ring
        self.commit_seconds = commit_seconds
        self._layouts: dict[int, Layout] = {}
        self._opened: RunWriter | None = None
        self._taken: list[Record] = []
        self._rows_taken: Counter[int] = Counter()
        self._position = ring.tail
        self._committed_at = self._failed_at = -math.inf
        self._lost: int | None = None
        """The step of which a piece could not be written."""
        self._failure: tuple[OSError | ValueError, int, int] | None = None

    # --- what the trainer asks for

    def open(
        self,
        path: str,
        mode: str,
        attributes: Mapping[str, str | int],
        options: Mapping[str, Any],
        layouts: Sequence[Layout],
    ) -> None:
        """Make or open the run; from then on records are taken, which may be of these layouts."""
        self._layouts = dict(enumerate(layouts))
        if mode == "resume":
            self._opened = RunWriter(path, **options)
        else:
            self._opened = RunWriter.create(path, attributes, overwrite=mode == "overwrite", **options)

    def declare(self, specs: Sequence[Any], codec: str) -> None:
        """Make variables."""
        self.flush()
        self._run.declare(specs, codec=codec)

    def layout(self, number: int, layout: Layout) -> None:
        """Tell what records of a layout hold."""
        self._layouts[number] = layout

    def pieces(self, group: str, variable: str) -> list[tuple[slice, ...]]:
        """The places of the chunks that cut a row."""
        return self._run.pieces(group, variable)

    def last(self, group: str, axis: str) -> int:
        """The last committed step."""
        return self._run.last(group, axis)

    def metrics(self) -> list[str]:
        """Names of the metrics that the run holds."""
        return self._run.metrics()

    def rewind(self, step: int) -> Path | None:
        """Go back to a step; the path of what was left behind."""
        self.flush()
        return self._run.rewind(step)

    def forms(self) -> dict[str, list[Form]]:
        """The forms of the layers."""
        return self._run.forms()

    def groups(self) -> list[str]:
        """What the run holds rows of."""
        return self._run.groups

    def attributes(self) -> dict[str, Any]:
        """What the run says of itself."""
        return self._run.attributes

    def flush(self) -> None:
        """Commit all that is in the ring."""
        run, self._failed_at = self._run, -math.inf
        lock.check(run.path, run.lock)
        self.take()
        self._commit()
        failure = self.failure()
        if failure and failure[1] == self._lost:
            raise failure[0]

    def failure(self) -> tuple[Exception, int, int] | None:
        """What went wrong since it was last asked for, and the first and last step that it concerns."""
        failure, self._failure = self._failure, None
        return failure

    def end(self) -> None:
        """Commit what the trainer left behind, and give the run back; a disk that is full may get room again."""
        if self._opened is None:
            return
        for attempt in range(_ATTEMPTS):
            try:
                return self.close()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
            if attempt + 1 < _ATTEMPTS:
                time.sleep(_RETRY)
        if steps := sorted({record.step for record in self._taken}):
            print(f"rmtnet: {self._run.path}: steps {steps[0]} to {steps[-1]} are lost: {reason}", file=sys.stderr)
        with contextlib.suppress(OSError, ValueError):
            self._run.close()

    def close(self) -> None:
        """Commit, and give the run back."""
        self.flush()
        self._run.close()

    @property
    def _run(self) -> RunWriter:
        if self._opened is None:
            raise ValueError("the writer has no run")
        return self._opened

    # --- what it does by itself

    def take(self) -> None:
        """Look at what was published since the last look; rows larger than the ring go to the disk piece by piece."""
        if self._opened is None:
            return
        for record in self.ring.records(self._position):
            if record.kind == PIECE:
                self._put_pieces(record)
            elif record.step != self._lost or record.kind in (METRICS, NOTES):
                self._taken.append(record)
                self._rows_taken[record.layout] += record.kind == ROWS
            self._position = record.end
            if self._is_due(record):
                self.commit()

    def commit(self) -> None:
        """Commit what was taken, and keep for the trainer what went wrong; what was not committed stays in the ring."""
        if time.monotonic() - self._failed_at < _RETRY:
            return
        try:
            self._commit()
        except (OSError, ValueError) as error:
            self._fail(error, [record.step for record in self._taken])

    def commit_in_time(self) -> None:
        """Commit what has waited long enough, or what the trainer needs the room of."""
        old = time.monotonic() - self._committed_at >= self.commit_seconds
        if self._taken and (old or self.ring.flags[WAITING]):
            self.commit()

    def _is_due(self, record: Record) -> bool:
        if self.ring.flags[WAITING] or 4 * self.ring.used >= 3 * self.ring.size:
            return True
        if record.kind != ROWS:
            return False
        # Chunks are written once and whole where commits end with them.
        layout = self._layouts[record.layout]
        group, axis = min(layout.axes)
        rows = self._run.length(group, axis) + self._rows_taken[record.layout]
        return bool(layout.streamed) or rows % rows_a_chunk(layout.size, self.ring.size // 2) == 0

    def _put_pieces(self, record: Record) -> None:
        if record.step == self._lost:
            return
        try:
            self._commit()  # what was freed is on the disk: nothing before it may be in the ring alone
            for entry in self._layouts[record.layout].entries:
                if record.step > self._run.last(entry.group, entry.axis):
                    assert entry.piece is not None
                    values = entry.stored(record.payload)
                    self._run.put_piece(entry.group, entry.axis, entry.variable, entry.piece, values)
            self.ring.free(record.end)
        except (OSError, ValueError) as error:
            self._lost = record.step
            self._fail(error, [record.step])

    def _fail(self, error: OSError | ValueError, steps: Sequence[int]) -> None:
        self._failed_at = time.monotonic()
        self._failure = (error, min(steps), max(steps))
        self.ring.flags[FAILED] = 1

    def _commit(self) -> None:
        self._committed_at = time.monotonic()
        if not self._taken:
            self.ring.free(self._position)
            return
        for (group, axis), rows in self._rows().items():
            # A writer that died may have committed and not freed.
            fresh = {step: row for step, row in rows.items() if step > self._run.last(group, axis)}
            if fresh:
                names = next(iter(fresh.values()))
                columns = {name: [row[name] for row in fresh.values()] for name in names}
                self._run.append_variables(group, axis, list(fresh), columns)
        self._append_metrics()
        for record in self._taken:
            if record.kind == NOTES:
                self._run.annotate(json.loads(bytes(record.payload)))
        self._run.commit()
        self.ring.flags[FAILED] = 0
        self.ring.free(self._position)
        self._taken = []
        self._rows_taken.clear()

    def _rows(self) -> dict[tuple[str, str], dict[int, dict[str, NDArray[Any]]]]:
        """(group, axis) -> step -> variable -> row, of what was taken."""
        rows: dict[tuple[str, str], dict[int, dict[str, NDArray[Any]]]] = {}
        for record in self._taken:
            if record.kind != ROWS:
                continue
            layout = self._layouts[record.layout]
            for axis in layout.axes:
                rows.setdefault(axis, {})[record.step] = {}
            for entry in layout.entries:
                rows[entry.group, entry.axis][record.step][entry.variable] = entry.stored(record.payload)
        return rows

    def _append_metrics(self) -> None:
        last = self._run.last("metrics")
        merged: dict[int, dict[str, float]] = {}
        for record in self._taken:
            if record.kind == METRICS and record.step >= last:
                merged.setdefault(record.step, {}).update(json.loads(bytes(record.payload)))
        if merged:
            names = dict.fromkeys(name for row in merged.values() for name in row)
            columns = {name: np.array([row.get(name, np.nan) for row in merged.values()]) for name in names}
            self._run.append_metrics(list(merged), columns)
