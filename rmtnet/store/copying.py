"""Runs written anew: with larger chunks or another codec, with fewer steps, without what is damaged."""

import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from rmtnet.store import lock
from rmtnet.store.arrays import KEYS, codecs, consolidate
from rmtnet.store.committed import LARGEST_CHUNK, Committed
from rmtnet.store.reading import Run, open_run

Rows = Mapping[str, NDArray[np.intp]]
"""Path of a coordinate of steps -> the rows to take; all of those that are not named."""
Layout = Callable[[Committed, zarr.Array[Any]], dict[str, Any]]
"""What is to differ when an array is made: its chunks, filters, compressors."""
_OWN_FILES = ("zarr.json", ".lock", ".commit")


def compact(
    path: str | Path,
    output: str | Path | None = None,
    *,
    codec: str | None = None,
    chunk_bytes: int = 16 * 2**20,
) -> Path:
    """Write the run at ``path`` anew with larger chunks, hence fewer files, or another codec; not a bit of it changes.

    Parameters
    ----------
    output : of the copy; None replaces the run itself, once the copy has been read back
    codec : "none", "lz4", "zstd" or "delta", for matrices; None keeps each array's own
    chunk_bytes : to hold as many steps in a chunk as fit, before compression

    Raises
    ------
    FileExistsError
        If there is something at ``output``.
    RunLocked
        If the run is being written.
    ValueError
        If a chunk of it is damaged; nothing has changed then.
    """
    if not 1 <= chunk_bytes <= LARGEST_CHUNK:
        raise ValueError(f"chunk_bytes must lie between 1 and {LARGEST_CHUNK}, got {chunk_bytes}")

    def layout(array: Committed, source: zarr.Array[Any]) -> dict[str, Any]:
        if len(array.shape) == 1:
            return {}
        piece = math.prod(array.chunks[1:]) * array.dtype.itemsize
        depth = max(array.chunks[0], min(chunk_bytes // piece, array.shape[0]))
        changed = {} if codec is None else codecs(codec, len(array.shape))
        return {"chunks": (depth, *array.chunks[1:]), **changed}

    return _rewritten(path, output, lambda run, target: copy_run(run, target, layout=layout))


def thin(path: str | Path, keep: Callable[[int], bool], output: str | Path | None = None) -> Path:
    """Write the run at ``path`` anew with some of its steps; what is one number a step (metrics, moments) stays whole.

    Parameters
    ----------
    keep : whether a step stays; a schedule such as ``every(10)``
    output : of the copy; None replaces the run itself, once the copy has been read back: the other steps are gone then

    Raises
    ------
    ValueError
        If no step would stay, or a chunk is damaged; nothing has changed then.
    FileExistsError, RunLocked
        As for :func:`compact`.
    """

    def copy(run: Run, target: Path) -> None:
        copy_run(run, target, rows=_rows_kept(run, keep))

    return _rewritten(path, output, copy)


def copy_run(
    run: Run,
    target: Path,
    *,
    rows: Rows | None = None,
    leave_out: Collection[str] = (),
    attributes: Mapping[str, Any] | None = None,
    layout: Layout = lambda array, source: {},
) -> None:
    """Write what ``run`` has committed into a new folder, ``target``.

    Parameters
    ----------
    rows : those to take
    leave_out : paths of arrays
    attributes : of the root, besides those of the run
    layout : what is to differ of each array
    """
    try:
        _fill(run, target, rows or {}, leave_out, attributes or {}, layout)
    except Exception as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, ValueError):
            raise ValueError(f"{run.source.address}: {error}") from error
        raise


def fresh_folder(path: Path) -> Path:
    """Where the run at ``path`` is written anew, beside it: not there."""
    fresh = path.with_name(path.name + ".rewriting")
    shutil.rmtree(fresh, ignore_errors=True)
    if os.path.lexists(fresh):
        raise FileExistsError(f"{fresh} is in the way: remove it")
    return fresh


def replace_run(path: Path, fresh: Path, old: Path) -> None:
    """Put ``fresh`` in the place of the run at ``path``, which becomes ``old``.

    A kill between the two renames leaves both, whole, under the other names.
    """
    os.sync()
    os.rename(path, old)
    os.rename(fresh, path)


def regions(shape: Sequence[int], chunks: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Those of the chunks of an array, one after the other."""
    for index in np.ndindex(*(-(-size // chunk) for size, chunk in zip(shape, chunks, strict=True))):
        yield tuple(
            slice(i * chunk, min((i + 1) * chunk, size)) for i, chunk, size in zip(index, chunks, shape, strict=True)
        )


def _fill(
    run: Run,
    target: Path,
    rows: Rows,
    leave_out: Collection[str],
    attributes: Mapping[str, Any],
    layout: Layout,
) -> None:
    root = zarr.create_group(target, zarr_format=3, attributes={**run.attrs, **attributes})
    for name in run.groups:
        group, stored = root.create_group(name), run.stored(name)
        for array in run.arrays(name).values():
            if array.path not in leave_out:
                source = stored[array.name]
                assert isinstance(source, zarr.Array)
                _copy_array(
                    source,
                    group,
                    array,
                    rows.get(array.steps_path),
                    layout(array, source),
                )
    consolidate(root)
    for file in run.path.iterdir() if run.path.is_dir() else ():
        if file.is_file() and not file.is_symlink() and file.name not in _OWN_FILES:
            shutil.copy2(file, target)


def _rewritten(path: str | Path, output: str | Path | None, copy: Callable[[Run, Path], None]) -> Path:
    if output is not None:
        return _copied(open_run(path), Path(output), copy)
    here = open_run(path).source.folder()
    old = here.with_name(here.name + ".old")
    with lock.acquire(here):
        if old.exists():
            raise FileExistsError(f"{old} exists: an earlier rewrite was cut short; look at it, then remove it")
        fresh = fresh_folder(here)
        copy(open_run(here), fresh)
        replace_run(here, fresh, old)
    shutil.rmtree(old)
    return Path(path)


def _copied(run: Run, target: Path, copy: Callable[[Run, Path], None]) -> Path:
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{target} exists: not overwritten; choose another name")
    if not target.resolve().parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: no such folder to write a run into")
    fresh = fresh_folder(target)
    copy(run, fresh)
    os.rename(fresh, target)
    return target


def _copy_array(
    source: zarr.Array[Any],
    group: zarr.Group,
    array: Committed,
    rows: NDArray[np.intp] | None,
    layout: dict[str, Any],
) -> None:
    if rows is None:
        rows = np.arange(array.shape[0])
    made = {
        "chunks": source.chunks, "filters": source.filters, "compressors": source.compressors,
        "dtype": source.dtype, "fill_value": source.fill_value, **layout,
    }  # fmt: skip
    made |= {key: made[key] or None for key in ("filters", "compressors")}
    copy = group.create_array(
        array.name, shape=(len(rows), *array.shape[1:]), attributes=dict(array.attributes), dimension_names=array.dims,
        config={"write_empty_chunks": not array.may_lack_chunks}, chunk_key_encoding=KEYS, **made,
    )  # fmt: skip
    for region in regions(copy.shape, copy.chunks):
        try:
            values = source.oindex[(_span(rows[region[0]]), *region[1:])]
        except Exception as error:
            raise ValueError(f"array {array.path} cannot be read ({error}): verify the run") from error
        copy[region] = values
        if not np.array_equal(copy[region], values, equal_nan=True):
            raise OSError(f"{group.store}: array {array.path} reads back otherwise than it was written: check the disk")


def _span(rows: NDArray[np.intp]) -> slice | NDArray[np.intp]:
    """Slices are read faster than lists of rows."""
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows


def _rows_kept(run: Run, keep: Callable[[int], bool]) -> dict[str, NDArray[np.intp]]:
    """Rows that stay, of every coordinate of what is more than one number a step."""
    kept = {}
    for group in run.groups:
        for path in {
            array.steps_path for array in run.arrays(group).values() if array.has_rows and len(array.shape) > 1
        }:
            steps = run.dataset(group)[path.removeprefix(f"{group}/")].values
            kept[path] = np.flatnonzero([keep(int(step)) for step in steps])
    if kept and not any(map(len, kept.values())):
        raise ValueError(f"{run.source.address}: none of its steps would stay; choose others")
    return kept
