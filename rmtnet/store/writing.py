"""Writing a run: rows, then their steps, then the commit record that makes them visible."""

import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from rmtnet.store import lock
from rmtnet.store.arrays import CODECS, consolidate, create_rows, create_steps, group_of
from rmtnet.store.chunks import ChunkedRows, Place, Rows
from rmtnet.store.commits import CommitRecord, forced, forced_tree, is_transition
from rmtnet.store.resuming import check_same, signature
from rmtnet.store.schema import (
    CHUNK_BYTES,
    LONGEST_CHUNK,
    MOMENT_SUFFIXES,
    SCHEMA_KEY,
    SCHEMA_VERSION,
    MatrixSpec,
    RowSpec,
    check_unique,
    decode,
    encode,
    rows_a_chunk,
)
from rmtnet.store.source import Source
from rmtnet.store.superseded import copy_tail

Sync = Literal["never", "close", "commit"]


Form = tuple[str, int, bool, tuple[object, ...]]
"""Group, number, whether it has steps of its own, signature."""


class RunWriter:
    """The single writer of a run.

    A row becomes visible at :meth:`commit`, which replaces the root's metadata (the committed shape of every array)
    atomically; a process killed before that leaves rows that no reader sees and the next writer cuts off.

    Parameters
    ----------
    path : the run's folder
    sync : when what was written is forced to the disk itself, to survive a power failure: at every "commit", at
        "close", or "never"
    buffer : bytes of rows that whoever appends can hold back: chunks of compressed arrays are no deeper

    Raises
    ------
    FileNotFoundError, ValueError
        If ``path`` holds no run.
    RunLocked
        If another process is writing it.
    """

    def __init__(self, path: str | Path, *, sync: Sync = "close", buffer: int = 64 * 2**20):
        self.path = Path(path)
        self.sync, self.buffer = sync, buffer
        self._rows: dict[str, ChunkedRows] = {}
        self._last: dict[str, int] = {}
        self._appended: dict[str, tuple[int, int]] = {}
        self._pieced: dict[str, set[str]] = {}
        self._resumed = False
        Source(self.path).own_record()
        self._lock = lock.acquire(self.path)
        try:
            self._record = CommitRecord(self.path)
            self._resumed = any(map(self._record.length, self._record.axes))
            self._root = zarr.open_group(self.path, mode="r+", use_consolidated=False)
            self._record.cut_back()
        except BaseException:
            self._lock.close()
            raise

    @classmethod
    def create(
        cls,
        path: str | Path,
        attributes: Mapping[str, str | int] | None = None,
        *,
        overwrite: bool = False,
        sync: Sync = "close",
        buffer: int = 64 * 2**20,
    ) -> Self:
        """Make an empty run (whole, by one rename) and open it.

        Raises
        ------
        FileExistsError
            If something is at ``path``; with ``overwrite`` only if it is not a run.
        """
        path = Path(path)
        if SCHEMA_KEY in (attributes or {}):
            raise ValueError(f"attributes must not hold {SCHEMA_KEY!r}, which tells the store's own form")
        if path.exists() or path.is_symlink():
            _check_replaceable(path, overwrite)
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        root = zarr.create_group(partial, zarr_format=3, attributes={SCHEMA_KEY: SCHEMA_VERSION, **(attributes or {})})
        for group in ("weights", "metrics"):
            group_of(root, group)
        consolidate(root)
        if path.exists():
            _remove(path)
        os.rename(partial, path)
        return cls(path, sync=sync, buffer=buffer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back. What was not committed is dropped."""
        if self._lock.closed:
            return
        try:
            lock.check(self.path, self._lock)
            if self.sync == "close":
                self._force()
                if self._resumed:
                    os.sync()  # what an earlier writer wrote, and may have died of
                self._record.publish({}, force=True)
            for path in self._record.arrays:
                self._record.write_own(path)
        finally:
            self._lock.close()

    def steps(self, group: str, axis: str = "step") -> NDArray[np.int64]:
        """Committed steps of a group, ascending; none if it was not asked for."""
        path = f"{group}/{axis}"
        known = path in self._record.arrays
        return np.asarray(self._read(path) if known else [], dtype=np.int64)

    def last(self, group: str, axis: str = "step") -> int:
        """The last committed step of a group, -1 if it has none."""
        path = f"{group}/{axis}"
        if path not in self._last:
            self._last[path] = int(self.steps(group, axis).max(initial=-1))
        return self._last[path]

    def declare(self, specs: Sequence[MatrixSpec | RowSpec], *, codec: str = "lz4") -> None:
        """Make the variables of these, or check that a resumed run has the same ones.

        A later form of a layer ends the earlier one, whose steps become steps of its own.

        Raises
        ------
        ValueError
            If two names differ only in case, or a resumed run holds another layer, shape or form.
        """
        if codec not in CODECS:
            raise ValueError(f"codec must be one of {', '.join(CODECS)}, got {codec!r}")
        rows = [spec.rows() if isinstance(spec, MatrixSpec) else spec for spec in specs]
        check_unique(dict.fromkeys(spec.name for spec in rows))
        for group in dict.fromkeys(spec.group for spec in rows):
            asked = [spec for spec in rows if spec.group == group]
            held = self._layers(group)
            new = [spec for spec in asked if spec.form and spec.variable not in held]
            if held and not new:
                check_same(self.path, self._record, self._read, asked, held)
                continue
            self._end_forms(new)
            self._create(group, new or asked, codec)
        self._publish({})

    def forms(self) -> dict[str, list[Form]]:
        """The forms of each layer, group by group."""
        forms: dict[str, list[Form]] = {}
        for path, metadata in self._record.arrays.items():
            group, _, variable = path.partition("/")
            if group != "metrics" and "form" in metadata["attributes"]:
                name, _, rest = variable.partition("@")
                number = re.match(r"\d*", rest)
                layer = decode(name if rest else variable.removesuffix(_suffix(group, variable)))
                own = metadata["dimension_names"][0] != "step"
                forms.setdefault(layer, []).append(
                    (group, int(number[0] or 0) if number else 0, own, signature(self._record, path, self._read))
                )
        return forms

    def metrics(self) -> list[str]:
        """Names of the metrics that the run holds."""
        return [decode(column) for column in self._record.variables("metrics")]

    @property
    def lock(self) -> IO[str]:
        """The open lock file."""
        return self._lock

    @property
    def attributes(self) -> dict[str, Any]:
        """What the run says of itself."""
        return self._record.attributes

    @property
    def groups(self) -> list[str]:
        """Those that hold rows."""
        return list(dict.fromkeys(axis.partition("/")[0] for axis in self._record.axes if self._record.length(axis)))

    def length(self, group: str, axis: str = "step") -> int:
        """Committed rows of a group."""
        return self._record.length(f"{group}/{axis}")

    def pieces(self, group: str, variable: str) -> list[Place]:
        """The places in a row of the chunks that cut it."""
        return [place for _, place in self._chunked(f"{group}/{variable}").pieces]

    def append(
        self, steps: Sequence[int], rows: Mapping[str, Rows], *, group: str = "weights", axis: str = "step"
    ) -> None:
        """Put rows after the committed ones; they stay invisible until :meth:`commit`.

        A second call before the commit starts at the same row: that is how a failed write is done again.

        Parameters
        ----------
        steps : (T,) optimizer steps done, ascending and later than the last committed one
        rows : layer name -> (T, block, out, in), or T rows; every declared layer

        Raises
        ------
        ValueError
            If the steps do not ascend, a layer is missing or unknown, or its rows have another shape.
        """
        variables = {encode(name): row for name, row in rows.items()}
        held = self._record.variables(group, axis)
        if variables.keys() != set(held):
            names = sorted(map(decode, held))
            raise ValueError(f"{self.path}: a row must hold the layers {names}, got {sorted(rows)}")
        self.append_variables(group, axis, steps, variables)

    def append_variables(self, group: str, axis: str, steps: Sequence[int], rows: Mapping[str, Rows]) -> None:
        """The same by the variables' own names; ``rows`` may leave out what :meth:`put_piece` has put already."""
        start = self._start(group, axis, steps)
        pieced = self._pieced.pop(f"{group}/{axis}", set())
        if missing := set(self._record.variables(group, axis)) - rows.keys() - pieced:
            raise ValueError(f"{self.path}: the rows of {group!r} lack {sorted(map(decode, missing))}")
        for name, values in rows.items():
            row = self._chunked(f"{group}/{name}").row_shape
            if len(values) != len(steps) or any(np.shape(value) != row for value in values):
                shape = (len(values), *np.shape(values[0]))
                raise ValueError(
                    f"{self.path}: {decode(name)!r} holds rows of {row}; "
                    f"{len(steps)} steps cannot take an array of {shape}"
                )
            self._put(f"{group}/{name}", start, values)
        self._put(f"{group}/{axis}", start, np.asarray(steps, dtype=np.int64))
        self._appended[f"{group}/{axis}"] = (start + len(steps), int(steps[-1]))

    def put_piece(self, group: str, axis: str, name: str, piece: int, values: NDArray[Any]) -> None:
        """Put a piece of the row after the committed ones, for rows too large to be held back."""
        chunked = self._chunked(f"{group}/{name}")
        key, _ = chunked.pieces[piece]
        chunk, offset = divmod(self.length(group, axis), chunked.depth)
        if chunked.depth > 1 and not chunked.in_place:
            raise ValueError(
                f"{self.path}: the chunks of {name!r} hold {chunked.depth} rows, which do not fit into the buffer: "
                "resume with a larger buffer_bytes"
            )
        chunked.write_piece(chunk, offset, key, [values])
        self._pieced.setdefault(f"{group}/{axis}", set()).add(name)

    def append_metrics(self, steps: Sequence[int], columns: Mapping[str, NDArray[np.float64]]) -> None:
        """Put rows of metrics, (T,) each, after the committed ones; a new metric is NaN in all earlier rows.

        Values for the last committed step join its row.
        """
        self._declare_metrics(list(columns))
        names = self._record.variables("metrics")
        rows = {name: np.full(len(steps), np.nan) for name in names}
        rows.update({encode(name): np.asarray(column) for name, column in columns.items()})
        if list(steps[:1]) == [self.last("metrics")]:
            for name in filter(lambda name: not np.isnan(rows[name][0]), names):
                self._put(f"metrics/{name}", self._record.length("metrics/step") - 1, rows[name][:1])
            steps, rows = steps[1:], {name: column[1:] for name, column in rows.items()}
        if len(steps):
            self.append_variables("metrics", "step", steps, rows)

    def annotate(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes of the run; the next commit publishes them."""
        self._record.annotate(attributes)

    def commit(self) -> None:
        """Make all appended rows visible, at once or not at all."""
        lock.check(self.path, self._lock)
        if force := self.sync == "commit":
            self._force()
        self._record.publish({path: length for path, (length, _) in self._appended.items()}, force=force)
        self._last.update({path: step for path, (_, step) in self._appended.items()})
        self._appended = {}

    def rewind(self, step: int) -> Path | None:
        """Go back to ``step``; later rows, if any, move to ``<run>.superseded-<k>.zarr``, whose path is returned.

        The gradient and the update of ``step`` are among the later ones: that step is done again.
        """
        keep = {
            axis: int(np.searchsorted(self._read(axis), step, side="left" if is_transition(axis) else "right"))
            for axis in self._record.axes
        }
        if all(keep[axis] == self._record.length(axis) for axis in keep):
            return None
        for path in self._record.arrays:
            self._record.write_own(path)
        superseded = copy_tail(self.path, self._root, self._record.arrays, keep)
        # Commit first: were the arrays cut first, a kill in between would leave committed rows without data.
        if self.sync != "never":
            forced_tree(superseded)
        self._publish(keep)
        self._record.cut_back()
        self._rows, self._last, self._appended = {}, {}, {}
        return superseded

    def _publish(self, lengths: Mapping[str, int]) -> None:
        """Change what there is, after all that it rests on."""
        lock.check(self.path, self._lock)
        if self.sync != "never":
            forced_tree(self.path, "zarr.json")
        self._record.publish(lengths, force=self.sync != "never")

    def _start(self, group: str, axis: str, steps: Sequence[int]) -> int:
        """The row at which ``steps`` begin."""
        if self._lock.closed:
            raise ValueError(f"{self.path}: this writer is closed; open the run again")
        last = self.last(group, axis)
        if len(steps) == 0 or np.any(np.diff([last, *steps]) <= 0):
            raise ValueError(f"{self.path}: steps must ascend; the run ends at {last}, got {list(steps)[:5]}")
        return self._record.length(f"{group}/{axis}")

    def _put(self, path: str, start: int, values: Rows) -> None:
        try:
            self._chunked(path).write(start, values)
        except (ValueError, RuntimeError, TypeError) as error:
            # The rest of a chunk is read before it is written anew.
            raise ValueError(f"{self.path}: the last chunk of {path!r} is damaged ({error})") from error

    def _chunked(self, path: str) -> ChunkedRows:
        if path not in self._rows:
            metadata = self._record.arrays[path]
            self._rows[path] = ChunkedRows(
                self.path / path, metadata, lambda first: self._read(path, first), force=self.sync == "commit"
            )
        return self._rows[path]

    def _read(self, path: str, first: int = 0) -> NDArray[Any]:
        """Committed rows of an array from ``first`` on."""
        self._record.write_own(path)
        return np.asarray(zarr.open_array(self.path / path, mode="r")[first:])

    def _force(self) -> None:
        for rows in self._rows.values():
            forced(rows.written)
            forced({folder for file in rows.written for folder in (file.parent, rows.folder)})
            rows.written.clear()

    def _layers(self, group: str) -> list[str]:
        """Variables of a group that are no steps and no constants."""
        axes = [axis.partition("/")[2] for axis in self._record.axes if axis.startswith(f"{group}/")]
        return [name for axis in axes for name in self._record.variables(group, axis)]

    def _create(self, group: str, specs: Sequence[RowSpec], codec: str) -> None:
        room = group_of(self._root, group)
        row = sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in specs)
        # What is put in place needs no depth that the appending side can hold back.
        depth = LONGEST_CHUNK if codec == "none" else rows_a_chunk(row, self.buffer)
        most = min(CHUNK_BYTES, self.buffer // 2)
        new = [f"{group}/{name}" for spec in specs for name in create_rows(room, spec, codec, depth, most=most)]
        for axis in dict.fromkeys(spec.axis for spec in specs if spec.own_steps):
            create_steps(room, axis)
            new.append(f"{group}/{axis}")
        self._record.enlist([group, f"{group}/step", *new])

    def _end_forms(self, specs: Sequence[RowSpec]) -> None:
        """Give the forms before these steps of their own where they shared others'."""
        for spec in specs:
            earlier = replace(spec, form=0, own_steps=True)
            if earlier.variable not in self._record.variables(spec.group):
                continue
            axis = f"{spec.group}/{earlier.axis}"
            if axis not in self._record.arrays:
                create_steps(group_of(self._root, spec.group), earlier.axis)
                self._record.enlist([axis])
                self._chunked(axis).write(0, steps := self.steps(spec.group))
                self._record.arrays[axis]["shape"][0] = len(steps)
            self._record.move(f"{spec.group}/{earlier.variable}", earlier.axis)

    def _declare_metrics(self, names: Sequence[str]) -> None:
        held = self.metrics()
        new = [name for name in names if name not in held]
        check_unique([*held, *new])
        length = self._record.length("metrics/step")
        for name in new:
            spec = RowSpec("metrics", name, attributes={"long_name": name})
            create_rows(group_of(self._root, "metrics"), spec, "none", 1, rows=length)
            path = f"metrics/{spec.variable}"
            # Filled before it counts as there: an attempt that failed is made anew.
            ChunkedRows(self.path / path, self._record.on_disk(path)).write(0, np.full(length, np.nan))
            self._record.enlist([path])


def _check_replaceable(path: Path, overwrite: bool) -> None:
    if not overwrite:
        raise FileExistsError(f"{path} exists: choose mode='resume' or mode='overwrite', or another path")
    try:
        Source(path).own_record()
        if path.is_symlink():
            raise ValueError("a link, whose target is not ours to replace")
    except (OSError, ValueError):
        raise FileExistsError(f"{path} exists and is no rmtnet run: not overwritten; choose another path") from None


def _remove(path: Path) -> None:
    with lock.acquire(path):
        old = path.with_name(path.name + ".overwritten")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(path, old)
    shutil.rmtree(old)


def _suffix(group: str, variable: str) -> str:
    """What the name of a moment has behind that of the layer."""
    return next((suffix for suffix in MOMENT_SUFFIXES if group == "moments" and variable.endswith(suffix)), "")
