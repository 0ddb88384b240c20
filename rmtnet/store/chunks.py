"""Rows of one array, put straight into its chunk files: the bytes that zarr would write, at the disk's speed."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc
import numcodecs.zstd
import numpy as np
from numpy.typing import NDArray

Key = tuple[str, ...]
Place = tuple[slice, ...]
Rows = Sequence[NDArray[Any]] | NDArray[Any]
"""Successive rows: a list of them, or one array."""
_ELSEWHERE = ("transpose", "crc32c")
_MOST_BUFFERS = 512
"""Of one gathered write: below every system's IOV_MAX."""


class ChunkedRows:
    """The rows of an array of shape (rows, ...), appended chunk by chunk.

    Without a codec rows are written in place; with one, the chunk that is not full is kept in memory and written whole,
    by atomic rename wherever its file may hold rows that were committed.

    Parameters
    ----------
    folder : the array's
    metadata : its zarr.json
    tail : first row of a chunk -> the rows that are committed from there on; needed with a codec
    force : whether a chunk must be on the disk itself before it takes the place of one that holds committed rows
    """

    def __init__(
        self,
        folder: Path,
        metadata: Mapping[str, Any],
        tail: Callable[[int], NDArray[Any]] | None = None,
        *,
        force: bool = False,
    ):
        self.folder = folder
        self.row_shape = tuple(metadata["shape"][1:])
        self.dtype = np.dtype(metadata["data_type"])
        self.depth, *cut = metadata["chunk_grid"]["configuration"]["chunk_shape"]
        """Rows in a chunk."""
        self._cut = tuple(cut)
        self._separator = metadata["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
        self.pieces = list(pieces(self.row_shape, self._cut))
        self._read_tail, self._force = tail, force
        codecs = [codec for codec in metadata["codecs"] if codec["name"] != "bytes"]
        self._has_checksum = bool(codecs) and codecs[-1]["name"] == "crc32c"
        # "transpose" is that of the steps to the end, which stacking does better.
        self._step_axis = -1 if codecs and codecs[0]["name"] == "transpose" else 0
        self._encoders = [_encoder(codec, self.dtype) for codec in codecs if codec["name"] not in _ELSEWHERE]
        fill = metadata["fill_value"]
        self._fill = np.array(np.nan if fill == "NaN" else fill, dtype=self.dtype)
        self._tail: tuple[int, NDArray[Any]] | None = None
        self.written: set[Path] = set()
        """Files written since the set was last emptied."""

    @property
    def in_place(self) -> bool:
        """Whether a row can be put without the others of its chunk."""
        return not (self._encoders or self._has_checksum)

    def write(self, start: int, rows: Rows) -> None:
        """Put ``rows`` at ``start``, ``start + 1``, ...; earlier rows of the same chunk stay."""
        done = 0
        while done < len(rows):
            chunk, offset = divmod(start + done, self.depth)
            part = rows[done : done + self.depth - offset]
            if not self.in_place:
                self._write_encoded(chunk, offset, part)
            else:
                self._write_raw(chunk, offset, part)
            done += len(part)

    def write_piece(self, chunk: int, offset: int, key: Key, rows: Sequence[NDArray[Any]]) -> None:
        """Put the same piece of successive rows into one chunk file; with a codec, a whole chunk's."""
        path = self.folder / self._separator.join(("c", str(chunk), *key))
        if not self.in_place:
            self._put_whole(path, self._encoded(rows), offset)
        else:
            self._put_in_place(path, rows, offset)
        self.written.add(path)

    def _write_raw(self, chunk: int, offset: int, rows: Rows) -> None:
        whole = [rows] if isinstance(rows, np.ndarray) and len(self.pieces) == 1 else None
        for key, place in self.pieces:
            self.write_piece(chunk, offset, key, whole or [row[place] for row in rows])

    def _write_encoded(self, chunk: int, offset: int, rows: Rows) -> None:
        whole: Rows = rows
        if len(rows) < self.depth:
            tail = self._tail_of(chunk, offset)
            tail[offset : offset + len(rows)] = rows
            whole = list(tail[: offset + len(rows)])
        for key, place in self.pieces:
            self.write_piece(chunk, offset, key, [row[place] for row in whole])
        if len(whole) == self.depth:
            self._tail = None

    def _tail_of(self, chunk: int, rows: int) -> NDArray[Any]:
        if self._tail is None or self._tail[0] != chunk:
            self._tail = (chunk, np.empty((self.depth, *self.row_shape), dtype=self.dtype))
            if rows and self._read_tail:
                self._tail[1][:rows] = self._read_tail(chunk * self.depth)[:rows]
        return self._tail[1]

    def _put_in_place(self, path: Path, rows: Sequence[NDArray[Any]], offset: int) -> None:
        buffers = [np.ascontiguousarray(row, dtype=self.dtype).data.cast("B") for row in rows]
        size = int(np.prod(self._cut)) * self.dtype.itemsize
        file = self._opened(path)
        try:
            place = offset * size
            for start in range(0, len(buffers), _MOST_BUFFERS):
                place = _write_all(file, buffers[start : start + _MOST_BUFFERS], place)
            if os.fstat(file).st_size < self.depth * size:
                os.ftruncate(file, self.depth * size)
        finally:
            os.close(file)

    def _put_whole(self, path: Path, data: Any, offset: int) -> None:
        target = path.with_name(path.name + ".partial") if offset else path
        file = self._opened(target, os.O_TRUNC)
        try:
            checksum = [memoryview(google_crc32c.value(data).to_bytes(4, "little"))] if self._has_checksum else []
            _write_all(file, [memoryview(data).cast("B"), *checksum], 0)
            if offset and self._force:
                os.fsync(file)
        finally:
            os.close(file)
        if offset:
            os.replace(target, path)

    def _opened(self, path: Path, flags: int = 0) -> int:
        flags |= os.O_CREAT | os.O_WRONLY
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:
            if not (self.folder / "zarr.json").exists():
                raise  # the run is gone: it must not come back as chunks alone
            path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(path, flags, 0o666)

    def _encoded(self, rows: Sequence[NDArray[Any]]) -> Any:
        data: Any = np.stack(rows, axis=self._step_axis, dtype=self.dtype)
        full = (self.depth, *self._cut)
        if data.size < math.prod(full):
            data = _padded(data, full if self._step_axis == 0 else (*full[1:], full[0]), self._fill)
        for encode in self._encoders:
            data = encode(data)
        return data


def pieces(shape: tuple[int, ...], cut: tuple[int, ...]) -> Iterator[tuple[Key, Place]]:
    """Into which pieces chunks cut a row: their place on the grid, and in the row."""
    grid = [range(0, size, step) for size, step in zip(shape, cut, strict=True)]
    for index in np.ndindex(*map(len, grid)):
        starts = [steps[i] for steps, i in zip(grid, index, strict=True)]
        place = tuple(slice(start, start + step) for start, step in zip(starts, cut, strict=True))
        yield tuple(map(str, index)), place


def _encoder(codec: Mapping[str, Any], dtype: np.dtype[Any]) -> Callable[[Any], Any]:
    settings = codec.get("configuration", {})
    match codec["name"]:
        case "blosc":
            shuffle = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[settings["shuffle"]]
            blosc = numcodecs.blosc.Blosc(settings["cname"], settings["clevel"], shuffle, settings["blocksize"])
            return lambda data: blosc.encode(np.ascontiguousarray(data).reshape(-1).view(dtype))
        case "zstd":
            zstd = numcodecs.zstd.Zstd(settings["level"], settings["checksum"])
            return lambda data: zstd.encode(np.ascontiguousarray(data))
        case name:
            raise ValueError(f"codec {name!r} is none that rmtnet writes")


def _padded(rows: NDArray[Any], shape: tuple[int, ...], fill: NDArray[Any]) -> NDArray[Any]:
    chunk = np.full(shape, fill)
    chunk[tuple(map(slice, rows.shape))] = rows
    return chunk


def _write_all(file: int, buffers: list[memoryview], offset: int) -> int:
    while buffers:
        done = os.pwritev(file, buffers, offset)
        offset += done
        while buffers and done >= len(buffers[0]):
            done -= len(buffers.pop(0))
        if done:
            buffers[0] = buffers[0][done:]
    return offset
