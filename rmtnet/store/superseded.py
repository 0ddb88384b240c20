"""Keeping what a resumed training leaves behind: rows after the checkpoint, as a run of their own."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import zarr

from rmtnet.store.arrays import KEYS, consolidate


def copy_tail(run: Path, root: zarr.Group, arrays: Mapping[str, Mapping[str, Any]], keep: Mapping[str, int]) -> Path:
    """Copy the committed rows beyond ``keep`` into ``<run>.superseded-<k>.zarr``, whole, by one rename.

    Parameters
    ----------
    root : the open run
    arrays : array path -> its committed metadata
    keep : axis (``group/step``) -> rows that stay
    """
    path = _free_name(run)
    partial = path.with_name(path.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy = zarr.create_group(partial, zarr_format=3, attributes={**root.attrs.asdict(), "superseded": path.name})
    for group in dict.fromkeys(axis.partition("/")[0] for axis in keep):
        copy.create_group(group)
    for name, metadata in arrays.items():
        start = keep.get(f"{name.partition('/')[0]}/{metadata['dimension_names'][0]}", 0)
        stop = metadata["shape"][0]
        source = root[name]
        assert isinstance(source, zarr.Array)
        _copy_rows(source, copy, name, metadata["dimension_names"], range(start, stop))
    consolidate(copy)
    os.rename(partial, path)
    return path


def _free_name(run: Path) -> Path:
    stem = run.name.removesuffix(".zarr")
    k = 1
    while (path := run.with_name(f"{stem}.superseded-{k}.zarr")).exists():
        k += 1
    return path


def _copy_rows(source: zarr.Array[Any], root: zarr.Group, name: str, dimensions: Sequence[str], rows: range) -> None:
    copy = root.create_array(
        name, shape=(len(rows), *source.shape[1:]), chunks=source.chunks, dtype=source.dtype,
        fill_value=source.fill_value, compressors=source.compressors or None,
        filters=source.filters or None, chunk_key_encoding=KEYS, attributes=source.attrs.asdict(),
        dimension_names=dimensions, config={"write_empty_chunks": True},
    )  # fmt: skip
    for row in range(0, len(rows), source.chunks[0]):
        stop = min(row + source.chunks[0], len(rows))
        copy[row:stop] = source[rows.start + row : rows.start + stop]
