"""Writing a run: rows, then their steps, then the commit record that makes them visible."""

import copy
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from rmtnet.store import lock
from rmtnet.store.arrays import consolidate, create_matrix, create_metric, create_steps, positions
from rmtnet.store.schema import (
    SCHEMA_KEY,
    SCHEMA_VERSION,
    MatrixSpec,
    check_unique,
    commit_record,
    decode,
    encode,
    layer_variables,
)
from rmtnet.store.superseded import copy_tail

GROUPS = ("weights", "metrics")


class RunWriter:
    """The single writer of a run.

    A row becomes visible at :meth:`commit`, which replaces the root's metadata (the committed shape of every array)
    atomically; a process killed before that leaves rows that no reader sees and the next writer cuts off.
    """

    def __init__(self, path: str | Path):
        """Open the run at ``path`` for appending, cut back to what was committed.

        Raises
        ------
        FileNotFoundError, ValueError
            If ``path`` holds no run.
        RunLocked
            If another process is writing it.
        """
        self.path = Path(path)
        commit_record(self.path)
        self._lock = lock.acquire(self.path)
        try:
            self._record = commit_record(self.path)
            self._root = zarr.open_group(self.path, mode="r+", use_consolidated=False)
            self._cut_back()
        except BaseException:
            self._lock.close()
            raise

    @classmethod
    def create(
        cls, path: str | Path, attributes: Mapping[str, str | int] | None = None, *, overwrite: bool = False
    ) -> Self:
        """Make an empty run (whole, by one rename) and open it.

        Raises
        ------
        FileExistsError
            If something is at ``path``; with ``overwrite`` only if it is not a run.
        """
        path = Path(path)
        if path.exists() or path.is_symlink():
            _check_replaceable(path, overwrite)
        partial = path.with_name(path.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        root = zarr.create_group(partial, zarr_format=3, attributes={SCHEMA_KEY: SCHEMA_VERSION, **(attributes or {})})
        for group in GROUPS:
            create_steps(root.create_group(group))
        consolidate(root)
        if path.exists():
            _remove(path)
        os.rename(partial, path)
        return cls(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back. What was not committed is dropped."""
        self._lock.close()

    def steps(self, group: str) -> NDArray[np.int64]:
        """Committed steps of a group, ascending."""
        steps = self._array(f"{group}/step")
        return np.asarray(steps[: self._length(group)], dtype=np.int64)

    def declare(self, specs: Sequence[MatrixSpec]) -> None:
        """Make the arrays of these layers, or check that a resumed run has the same ones.

        Raises
        ------
        ValueError
            If two names differ only in case, or a resumed run holds another layer, shape or form.
        """
        check_unique(spec.name for spec in specs)
        weights = self._group("weights")
        if held := self._layers():
            self._check_same(specs, held)
            return
        for spec in specs:
            create_matrix(weights, spec)
        self._enlist("weights", [name for spec in specs for name in (encode(spec.name), *positions(spec))])
        self._publish({})

    def metrics(self) -> list[str]:
        """Names of the metrics that the run holds."""
        return [decode(column) for column in self._columns()]

    def append(self, steps: Sequence[int], rows: Mapping[str, NDArray[Any]]) -> None:
        """Put rows of weights after the committed ones; they stay invisible until :meth:`commit`.

        A second call before the commit starts at the same row: that is how a failed write is done again.

        Parameters
        ----------
        steps : (T,) optimizer steps done, ascending and later than the last committed one
        rows : layer name -> (T, block, out, in), every declared layer

        Raises
        ------
        ValueError
            If the steps do not ascend, a layer is missing or unknown, or its rows have another shape.
        """
        variables = {encode(name): row for name, row in rows.items()}
        if variables.keys() != self._layers():
            raise ValueError(
                f"{self.path}: a row must hold the layers {sorted(map(decode, self._layers()))}, got {sorted(rows)}"
            )
        self._append("weights", steps, variables)

    def append_metrics(self, steps: Sequence[int], columns: Mapping[str, NDArray[np.float64]]) -> None:
        """Put rows of metrics, (T,) each, after the committed ones; a new metric is NaN in all earlier rows.

        Values for the last committed step join its row.
        """
        self._declare_metrics(list(columns))
        names = self._columns()
        rows = {name: np.full(len(steps), np.nan) for name in names}
        rows.update({encode(name): column for name, column in columns.items()})
        if list(steps[:1]) == list(self.steps("metrics")[-1:]):
            for name in filter(lambda name: not np.isnan(rows[name][0]), names):
                self._array(f"metrics/{name}")[self._length("metrics") - 1] = rows[name][0]
            steps, rows = steps[1:], {name: column[1:] for name, column in rows.items()}
        if len(steps):
            self._append("metrics", steps, rows)

    def commit(self) -> None:
        """Make all appended rows visible, at once or not at all."""
        self._publish({path: list(self._array(path).shape) for path in self._committed()})

    def rewind(self, step: int) -> Path | None:
        """Go back to ``step``; later rows, if any, move to ``<run>.superseded-<k>.zarr``, whose path is returned."""
        keep = {group: int(np.searchsorted(self.steps(group), step, side="right")) for group in GROUPS}
        if all(keep[group] == self._length(group) for group in GROUPS):
            return None
        superseded = copy_tail(self.path, self._root, self._committed(), keep)
        shapes = {
            path: [keep[path.split("/")[0]], *array["shape"][1:]]
            for path, array in self._committed().items()
            if array["dimension_names"][0] == "step"
        }
        # Commit first: were the arrays cut first, a kill in between would leave committed rows without data.
        self._publish(shapes)
        self._cut_back()
        return superseded

    def _append(self, group: str, steps: Sequence[int], rows: Mapping[str, NDArray[Any]]) -> None:
        if self._lock.closed:
            raise ValueError(f"{self.path}: this writer is closed; open the run again")
        start, stop = self._length(group), self._length(group) + len(steps)
        last = self.steps(group)[-1:]
        if len(steps) == 0 or np.any(np.diff([*last, *steps]) <= 0):
            raise ValueError(f"{self.path}: steps must ascend; the run ends at {list(last)}, got {list(steps)[:5]}")
        for name, values in [*rows.items(), ("step", np.asarray(steps, dtype=np.int64))]:
            array = self._array(f"{group}/{name}")
            if values.shape != (len(steps), *array.shape[1:]):
                raise ValueError(
                    f"{self.path}: {decode(name)!r} holds rows of {array.shape[1:]}; "
                    f"{len(steps)} steps cannot take an array of {values.shape}"
                )
            if array.shape[0] != stop:
                array.resize((stop, *array.shape[1:]))
            self._put(array, slice(start, stop), values)

    def _put(self, array: zarr.Array[Any], rows: slice, values: NDArray[Any]) -> None:
        try:
            array[rows] = values
        except (ValueError, RuntimeError, TypeError) as error:
            # The rest of a chunk is read before it is written anew.
            raise ValueError(f"{self.path}: the last chunk of {array.basename!r} is damaged ({error})") from error

    def _declare_metrics(self, names: Sequence[str]) -> None:
        held = self.metrics()
        new = [name for name in names if name not in held]
        check_unique([*held, *new])
        for name in new:
            create_metric(self._group("metrics"), name, self._length("metrics"))
        self._enlist("metrics", map(encode, new))

    def _group(self, name: str) -> zarr.Group:
        group = self._root[name]
        assert isinstance(group, zarr.Group)
        return group

    def _array(self, path: str) -> zarr.Array[Any]:
        array = self._root[path]
        assert isinstance(array, zarr.Array)
        return array

    def _committed(self) -> dict[str, dict[str, Any]]:
        """Array path -> its committed metadata."""
        nodes: dict[str, dict[str, Any]] = self._record["consolidated_metadata"]["metadata"]
        return {path: node for path, node in nodes.items() if node["node_type"] == "array"}

    def _layers(self) -> set[str]:
        return set(layer_variables(self._record))

    def _columns(self) -> list[str]:
        metrics = [path.removeprefix("metrics/") for path in self._committed() if path.startswith("metrics/")]
        return [name for name in metrics if name != "step"]

    def _length(self, group: str) -> int:
        return int(self._committed()[f"{group}/step"]["shape"][0])

    def _enlist(self, group: str, names: Iterable[str]) -> None:
        """Add new arrays to the record in memory; the next commit publishes them."""
        consolidated = self._record["consolidated_metadata"]
        paths = [f"{group}/{name}" for name in names]
        new = {path: json.loads((self.path / path / "zarr.json").read_text()) for path in paths}
        # zarr loses arrays of a group whose entries do not follow one another.
        consolidated["metadata"] = dict(sorted({**consolidated["metadata"], **new}.items()))

    def _publish(self, shapes: Mapping[str, Sequence[int]]) -> None:
        # A copy: were the disk full, the record in memory must still say what is committed.
        record = copy.deepcopy(self._record)
        for path, shape in shapes.items():
            record["consolidated_metadata"]["metadata"][path]["shape"] = list(shape)
        new = self.path / ".commit"
        new.write_text(json.dumps(record))
        os.replace(new, self.path / "zarr.json")
        self._record = record

    def _cut_back(self) -> None:
        committed = self._committed()
        for group in GROUPS:
            # The folders themselves: an array whose making was cut short is none to zarr.
            for folder in filter(Path.is_dir, (self.path / group).iterdir()):
                path = f"{group}/{folder.name}"
                if path not in committed:
                    shutil.rmtree(folder)
                elif list(self._array(path).shape) != committed[path]["shape"]:
                    self._array(path).resize(tuple(committed[path]["shape"]))

    def _check_same(self, specs: Sequence[MatrixSpec], held: set[str]) -> None:
        asked = {encode(spec.name) for spec in specs}
        if asked != held:
            recorded, given = (sorted(map(decode, names)) for names in (held, asked))
            raise ValueError(f"{self.path}: the run records {recorded}, not {given}: resume with the same layers")
        for spec in specs:
            array = self._array(f"weights/{encode(spec.name)}")
            was = f"{array.attrs['form']} {array.shape[1:]} {array.dtype}"
            now = f"{spec.form} {spec.shape} {spec.dtype}"
            if was != now:
                raise ValueError(
                    f"{self.path}: layer {spec.name!r} is {was} in the run, {now} in the model: "
                    "resume with the same model"
                )
            for place, position in positions(spec).items():
                if list(np.asarray(self._array(f"weights/{place}"))) != list(position):
                    raise ValueError(
                        f"{self.path}: the blocks of layer {spec.name!r} are at other places in the run: "
                        "record them in a run of its own"
                    )


def _check_replaceable(path: Path, overwrite: bool) -> None:
    if not overwrite:
        raise FileExistsError(f"{path} exists: choose mode='resume' or mode='overwrite', or another path")
    try:
        commit_record(path)
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
