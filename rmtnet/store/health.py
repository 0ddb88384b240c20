"""Whether a run is whole: every committed chunk read and checked; and saving what is whole of a damaged one."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rmtnet.store import lock
from rmtnet.store.committed import Committed
from rmtnet.store.copying import copy_run, fresh_folder, regions, replace_run
from rmtnet.store.reading import Run, open_run

_EXACT, _ROUNDED = 1e-6, 0.1
"""Relative errors of norms: they are taken of the weights before these are rounded for the disk, if they are."""
Fault = tuple[int, str]
"""Row, and what is wrong there."""


@dataclass(frozen=True)
class Health:
    """What was found of one array."""

    array: str
    """``group/variable``"""
    rows: int
    chunks: int
    faults: tuple[Fault, ...] = ()
    """Rows at which damage begins, ascending, and what it is."""
    note: str = ""
    """What is odd, but may have been recorded so."""

    @property
    def whole_rows(self) -> int:
        """Rows before the first damage."""
        return self.faults[0][0] if self.faults else self.rows


@dataclass(frozen=True)
class Repair:
    """What a repair did."""

    original: Path
    """Where the damaged run is now."""
    cut: int | None
    """Steps from this one on are no more; None if all stayed."""
    dropped: tuple[str, ...]
    """Arrays that are no more."""


def verify(path: str | Path) -> list[Health]:
    """Read and check every committed chunk of the run at ``path``.

    Chunks must be there, of the right size and with the right checksum; steps must ascend, singular values descend, and
    weights have the norms that were recorded with them.  Uncompressed chunks have no checksum: only norms tell there.

    Raises
    ------
    FileNotFoundError, NotADirectoryError, ValueError
        If there is no run, or its metadata is damaged.
    """
    run = open_run(path)
    return [_health(run, array) for group in run.groups for array in run.arrays(group).values()]


def repair(path: str | Path, *, drop: bool = False) -> Repair | None:
    """Put what is whole of the run at ``path`` in its place; the damaged one becomes ``<run>.damaged-<k>.zarr``.

    Parameters
    ----------
    drop : leave out damaged arrays and keep all steps, instead of cutting all groups back to the steps before the
        first damage

    Returns
    -------
    What was done; None if nothing was damaged

    Raises
    ------
    RunLocked
        If the run is being written.
    ValueError
        If nothing would be left, or a cut cannot cure it; nothing has changed then.
    """
    here = open_run(path).source.folder()
    with lock.acquire(here):
        run, found = open_run(here), verify(here)
        damaged = {health.array: health for health in found if health.faults}
        if not damaged:
            return None
        dropped = _dropped(run, damaged) if drop else ()
        cut = None if drop else _cut(run, damaged)
        rows = _rows_before(run, cut, damaged)
        original, fresh = _free_name(here), fresh_folder(here)
        done = f"damaged, kept as {original.name}: " + (
            f"without {', '.join(dropped)}" if drop else f"cut at step {cut}"
        )
        # Steps that are damaged stay as an empty coordinate: a group has one.
        copy_run(
            run,
            fresh,
            rows=rows,
            leave_out=[path for path in dropped if path not in rows],
            attributes={"repaired": done},
        )
        replace_run(here, fresh, original)
    return Repair(original, cut, dropped)


def _health(run: Run, array: Committed) -> Health:
    rows = array.shape[0]
    numbers, squares = np.zeros(rows, dtype=np.int64), np.zeros(rows)
    stored: Any = run.stored(array.group)[array.name]
    faults: list[Fault] = []
    last = -1
    for region in regions(array.shape, array.chunks):
        try:
            values = stored[region]
        except Exception as error:
            faults.append((region[0].start, f"chunk {_key(array, region)}: {' '.join(str(error).split())}"))
            continue
        flat = values.reshape(len(values), -1).astype(np.float64)
        numbers[region[0]] += (~np.isnan(flat)).sum(axis=1)
        with np.errstate(over="ignore"):
            squares[region[0]] += np.square(flat).sum(axis=1)
        faults += _disorder(array, region[0].start, values, last)
        last = values.flat[-1]
    empty = np.flatnonzero(numbers == 0)
    if faults or len(array.shape) == 1:
        empty = empty[:0]
    if array.group == "weights" and len(array.shape) > 1 and not faults:
        faults += _norm_faults(run, array, squares)
    note = (
        f"{len(empty)} rows are NaN throughout, the first is row {empty[0]}: did training diverge?"
        if len(empty)
        else ""
    )
    return Health(array.path, rows, math.prod(array.grid), tuple(sorted(faults)), note)


def _key(array: Committed, region: tuple[slice, ...]) -> str:
    return "/".join(str(part.start // chunk) for part, chunk in zip(region, array.chunks, strict=True))


def _disorder(array: Committed, start: int, values: NDArray[Any], last: int) -> list[Fault]:
    """Steps that do not ascend, from the ``last`` before them on; singular values that do not descend."""
    if array.is_steps:
        wrong, what = np.asarray(np.diff(values, prepend=last) <= 0), "steps do not ascend"
    elif array.group == "spectra" and array.has_rows and values.shape[-1] == array.shape[-1]:
        wrong, what = np.asarray(np.any(np.diff(values, axis=-1) > 0, axis=(1, 2))), "singular values do not descend"
    else:
        return []
    return [(start + int(np.argmax(wrong)), what)] if wrong.any() else []


def _norm_faults(run: Run, array: Committed, squares: NDArray[np.float64]) -> list[Fault]:
    """Rows of weights whose norm is not the one that was recorded."""
    try:
        norms = run.dataset("norms")[array.name].load()
        steps = run.dataset("weights")[array.dims[0]].values
    except (ValueError, KeyError):
        return []
    shared, here, there = np.intersect1d(steps, norms[norms.dims[0]].values, return_indices=True)
    known, found = norms.values[there], np.sqrt(squares[here])
    error = _ROUNDED if "precision" in array.attributes else _EXACT
    wrong = np.flatnonzero(~np.isclose(found, known, rtol=error, atol=0, equal_nan=True))
    return [
        (int(here[row]), f"the norm at step {shared[row]} is {found[row]:g}, not {known[row]:g}") for row in wrong[:1]
    ]


def _dropped(run: Run, damaged: Mapping[str, Health]) -> tuple[str, ...]:
    """Damaged arrays, and what means nothing without them: rows without their steps, a layer without its places."""
    gone: set[str] = set()
    for group in run.groups:
        arrays = run.arrays(group)
        for array in arrays.values():
            if array.path in damaged:
                lost = set(array.dims[1:] if array.has_rows else array.dims)
                gone |= {array.path, *(other.path for other in arrays.values() if lost & set(other.dims))}
    return tuple(sorted(gone))


def _cut(run: Run, damaged: Mapping[str, Health]) -> int:
    """The first step that is not whole in every array."""
    first = []
    for health in damaged.values():
        array = run.arrays(health.array.partition("/")[0])[health.array.partition("/")[2]]
        if not array.has_rows and not array.is_steps:
            raise ValueError(f"{run.path}: {array.path} is damaged at all steps: repair by dropping what is damaged")
        steps = _whole_steps(run, array.steps_path, damaged)
        row = min(health.whole_rows, len(steps))
        first.append(int(steps[row]) if row < len(steps) else int(steps[-1]) + 1 if len(steps) else 0)
    return min(first)


def _rows_before(run: Run, cut: int | None, damaged: Mapping[str, Health]) -> dict[str, NDArray[np.intp]]:
    """Coordinate -> its rows before the step ``cut``; where nothing is cut, none of a coordinate that is damaged."""
    rows = {}
    for group in run.groups:
        for path in (array.path for array in run.arrays(group).values() if array.is_steps):
            steps = _whole_steps(run, path, damaged)
            keep = (0 if path in damaged else len(steps)) if cut is None else int(np.searchsorted(steps, cut))
            rows[path] = np.arange(keep)
    if not any(map(len, rows.values())):
        raise ValueError(f"{run.path}: no step is whole in every array: repair by dropping what is damaged")
    return rows


def _whole_steps(run: Run, path: str, damaged: Mapping[str, Health]) -> NDArray[np.int64]:
    group, _, name = path.partition("/")
    stored: Any = run.stored(group)[name]
    return np.asarray(stored[: damaged[path].whole_rows if path in damaged else None])


def _free_name(run: Path) -> Path:
    stem = run.name.removesuffix(".zarr")
    names = (run.with_name(f"{stem}.damaged-{k}.zarr") for k in itertools.count(1))
    return next(name for name in names if not name.exists())
