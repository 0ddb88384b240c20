"""What a run holds, at a glance: files are counted, steps are read, weights are not."""

import fcntl
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rmtnet.store.reading import Run
from rmtnet.store.schema import DIMS


@dataclass(frozen=True)
class Recorded:
    """What a run holds of one layer, in one group."""

    group: str
    layer: str
    form: str
    shape: tuple[int, ...]
    """Of a row."""
    dtype: str
    steps: NDArray[np.int64]
    nbytes: int
    """Of the values."""
    disk_bytes: int | None
    """None in a remote run."""

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """Neighbouring steps at least twice as far apart as the pairs before and after them, which are alike."""
        distances = np.diff(self.steps)
        before, inner, after = distances[:-2], distances[1:-1], distances[2:]
        wide = np.flatnonzero((inner >= 2 * before) & (before == after)) + 1
        return [(int(self.steps[i]), int(self.steps[i + 1])) for i in wide]


@dataclass(frozen=True)
class Overview:
    """A run at a glance."""

    recorded: tuple[Recorded, ...]
    files: int
    disk_bytes: int | None
    committed: datetime | None
    """When the last commit was; None in a remote run."""
    writer: str
    """Who is writing the run now; empty if nobody is."""
    problems: tuple[str, ...]

    @property
    def last_step(self) -> int | None:
        """The last one committed, of any group that has layers."""
        return max((int(row.steps[-1]) for row in self.recorded if len(row.steps)), default=None)


def overview(run: Run) -> Overview:
    """Look at a run, also at one that is being written: `rmtnet store verify` reads its chunks, this counts them.

    Raises
    ------
    ValueError
        If its metadata or its steps are damaged.
    """
    sizes = {} if run.source.remote else dict(_files(run.source.folder()))
    remote = run.source.remote
    rows = [
        _recorded(run, group, layer, None if remote else sizes) for group in run.groups for layer in _layers(run, group)
    ]
    record = run.path / "zarr.json"
    return Overview(
        tuple(rows),
        len(sizes),
        None if remote else sum(sizes.values()),
        None if remote else datetime.fromtimestamp(record.stat().st_mtime, UTC),
        "" if remote else _writer(run.path),
        () if remote else tuple(_problems(run, sizes)),
    )


def _layers(run: Run, group: str) -> Iterable[str]:
    return run.layers(group) if group in DIMS else ()


def _recorded(run: Run, group: str, layer: str, sizes: dict[str, int] | None) -> Recorded:
    found = run.layers(group)
    array, committed = found[layer], run.arrays(group)[found.variable(layer)]
    disk = None if sizes is None else sum(sizes.get(key, 0) for key in committed.chunk_keys())
    form = str(array.attrs.get("form", ""))
    steps = array["step"].values
    return Recorded(group, layer, form, array.shape[1:], str(array.dtype), steps, committed.nbytes, disk)


def _files(folder: Path) -> Iterable[tuple[str, int]]:
    """Path below the run and size of its files: what the disk holds of them, for chunks are padded with holes."""
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            try:
                status = os.lstat(path)
            except FileNotFoundError:  # a writer replaced it
                continue
            yield os.path.relpath(path, folder), min(status.st_size, status.st_blocks * 512)


def _problems(run: Run, sizes: dict[str, int]) -> Iterable[str]:
    for group in run.groups:
        for array in run.arrays(group).values():
            missing = 0 if array.may_lack_chunks else sum(key not in sizes for key in array.chunk_keys())
            if missing:
                yield f"{array.path}: {missing} chunk files are missing"


def _writer(folder: Path) -> str:
    try:
        with open(folder / ".lock") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "an unknown process"
    except OSError:
        pass
    return ""
