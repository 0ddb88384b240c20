"""What a run has committed: the record at its root, checked before anything in it is believed."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmtnet.store.schema import SCHEMA_KEY, SCHEMA_VERSION

LARGEST_RECORD = 64 * 2**20
"""Bytes of a record that is read: thousands of layers in all groups."""
LARGEST_CHUNK = 256 * 2**20
MOST_CHUNKS = 10**7
"""Of one array."""
_CODECS = {"transpose", "bytes", "blosc", "zstd", "crc32c"}
_LARGEST_SIZE = 2**62
_NO_NAMES = ("", ".", "..", "zarr.json")
_DTYPES = {"float16", "float32", "float64", "int64"}
# What compression may add: Blosc's header, zstd's frame, a checksum, blocks that did not shrink.
_OVERHEAD = 1024


@dataclass(frozen=True)
class Committed:
    """One array as committed; its own ``zarr.json`` may be ahead of it or behind."""

    path: str
    """``group/variable``"""
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    attributes: Mapping[str, Any]
    codecs: tuple[str, ...]
    separator: str = "."
    """Between the places of a chunk in its file's name: "/" in runs of schema 1."""

    @property
    def group(self) -> str:
        return self.path.partition("/")[0]

    @property
    def name(self) -> str:
        return self.path.partition("/")[2]

    @property
    def is_steps(self) -> bool:
        return self.dims == (self.name,)

    @property
    def has_rows(self) -> bool:
        """Whether it grows with the steps, of which ``steps_path`` are the coordinate."""
        return not self.is_steps and (self.dims[0] == "step" or self.dims[0].endswith("_step"))

    @property
    def steps_path(self) -> str:
        return f"{self.group}/{self.dims[0]}"

    @property
    def may_lack_chunks(self) -> bool:
        """One number a step, or a block, is NaN (or 0) where nothing was written."""
        return len(self.shape) == 1 and not self.is_steps

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def chunk_bytes(self) -> int:
        return math.prod(self.chunks) * self.dtype.itemsize

    @property
    def largest_file(self) -> int:
        """Bytes that a chunk's file may have."""
        return self.chunk_bytes + self.chunk_bytes // 64 + _OVERHEAD

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each dimension."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    def chunk_keys(self) -> Iterator[str]:
        """Of all chunks, below the run."""
        for index in np.ndindex(*self.grid):
            yield f"{self.path}/{self.separator.join(('c', *map(str, index)))}"

    def what_is_wrong(self, data: bytes) -> str:
        """Why a chunk's file must not be unpacked, in words; empty if it may be.

        Headers of compressed chunks say what they unpack into: a few bytes may claim gigabytes.
        """
        if len(data) > self.largest_file:
            return f"it is larger than a chunk of {self.chunk_bytes:,} bytes can be"
        held = _unpacked_bytes(data, self.codecs)
        if held != self.chunk_bytes:
            return f"it holds {'no chunk' if held is None else f'{held:,} bytes'} instead of {self.chunk_bytes:,} bytes"
        return ""


def parse_record(text: bytes, address: str) -> dict[str, Any]:
    """The root's metadata: attributes, and that of every committed array.

    Raises
    ------
    ValueError
        If it is no record of a run, or one of a newer schema.
    """
    try:
        record: dict[str, Any] = json.loads(text)
        version = record["attributes"][SCHEMA_KEY]
        nodes = record["consolidated_metadata"]["metadata"]
        if not all(isinstance(node.get("attributes", {}), dict) for node in nodes.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{address}: no rmtnet run (its zarr.json is not one that rmtnet wrote)") from None
    if type(version) is not int or version not in range(1, SCHEMA_VERSION + 1):
        raise ValueError(f"{address}: schema {version!r}, but this rmtnet reads up to {SCHEMA_VERSION}: upgrade rmtnet")
    for path in nodes:
        if not _is_plain(path):
            raise ValueError(f"{address}: the run is damaged: {path[:80]!r} is no name of a group or variable")
    return record


def nodes_of(record: Mapping[str, Any], group: str) -> dict[str, dict[str, Any]]:
    """Variable name -> metadata, of the arrays of one group."""
    start = f"{group}/"
    nodes = record["consolidated_metadata"]["metadata"]
    return {path.removeprefix(start): node for path, node in nodes.items() if path.startswith(start)}


def groups_of(record: Mapping[str, Any]) -> list[str]:
    """Names of the groups that the run has."""
    return [path for path in record["consolidated_metadata"]["metadata"] if "/" not in path]


def committed(record: Mapping[str, Any], address: str, group: str) -> dict[str, Committed]:
    """Variable name -> the arrays of one group, checked.

    Raises
    ------
    ValueError
        If the metadata of one is not such as rmtnet writes.
    """
    nodes = nodes_of(record, group)
    found = {name: _checked(node, f"{group}/{name}", address) for name, node in nodes.items()}
    for array in found.values():
        steps = found.get(array.dims[0])
        rowless = array.is_steps or (len(array.shape) == 1 and not array.has_rows)
        if not rowless and (steps is None or not steps.is_steps or steps.shape[0] != array.shape[0]):
            count = f"{steps.shape[0]}" if steps is not None and steps.is_steps else "no"
            raise ValueError(
                f"{address}: the run is damaged: {array.path!r} has {array.shape[0]} rows but {count} steps"
            )
    return found


def _checked(node: Mapping[str, Any], path: str, address: str) -> Committed:
    try:
        array = _read_node(node, path)
        wrong = _what_is_wrong(node, array)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        wrong = "its metadata is not such as rmtnet writes"
    if wrong:
        raise ValueError(f"{address}: the run is damaged: array {path!r}: {wrong}")
    return array


def _read_node(node: Mapping[str, Any], path: str) -> Committed:
    grid, codecs = node["chunk_grid"], node["codecs"]
    if node["data_type"] not in _DTYPES:
        raise ValueError
    return Committed(
        path,
        tuple(map(_whole, node["shape"])),
        tuple(map(_whole, grid["configuration"]["chunk_shape"])),
        np.dtype(node["data_type"]),
        tuple(map(_text, node["dimension_names"])),
        node.get("attributes", {}),
        tuple(_text(codec["name"]) for codec in codecs),
        _separator(node),
    )


def _what_is_wrong(node: Mapping[str, Any], array: Committed) -> str:
    """In words; empty if nothing is."""
    kinds = (node["node_type"], node["zarr_format"], node["chunk_grid"]["name"], node["chunk_key_encoding"]["name"])
    if kinds != ("array", 3, "regular", "default") or array.separator not in ("/", "."):
        return "its metadata is not such as rmtnet writes"
    if not len(array.shape) == len(array.chunks) == len(array.dims) >= 1 or len(set(array.dims)) < len(array.dims):
        return f"shape {array.shape}, chunks {array.chunks} and dimensions {array.dims} do not fit together"
    if min(array.shape) < 0 or min(array.chunks) < 1:
        return f"shape {array.shape} and chunks {array.chunks} must be positive"
    if array.chunk_bytes > LARGEST_CHUNK:
        return f"chunks of {array.chunk_bytes:,} bytes are more than {LARGEST_CHUNK:,}"
    if math.prod(array.grid) > MOST_CHUNKS:
        return f"shape {array.shape} in {math.prod(array.grid):,} chunks is more than {MOST_CHUNKS:,}"
    if unknown := set(array.codecs) - _CODECS:
        return f"codec {min(unknown)!r} is none that rmtnet writes"
    return ""


def _is_plain(path: str) -> bool:
    """``group`` or ``group/variable``, no part of which leads elsewhere."""
    parts = path.split("/")
    return len(parts) <= 2 and not any(part in _NO_NAMES or "\\" in part or "\0" in part for part in parts)


def _separator(node: Mapping[str, Any]) -> str:
    return _text(node["chunk_key_encoding"].get("configuration", {}).get("separator", "/"))


def _whole(number: Any) -> int:
    if type(number) is not int or abs(number) > _LARGEST_SIZE:
        raise TypeError
    return number


def _text(text: Any) -> str:
    if type(text) is not str:
        raise TypeError
    return text


def _unpacked_bytes(data: bytes, codecs: tuple[str, ...]) -> int | None:
    """What a chunk file says that it unpacks into; None if it does not say."""
    body = data[: len(data) - 4] if codecs[-1] == "crc32c" else data
    if "blosc" in codecs:
        return int.from_bytes(body[4:8], "little") if len(body) >= 16 else None
    if "zstd" in codecs:
        return _zstd_bytes(body)
    return len(body)


def _zstd_bytes(frame: bytes) -> int | None:
    """The content size in the header of a zstd frame (RFC 8878, section 3.1.1.1)."""
    if len(frame) < 6 or frame[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = frame[4]
    single = descriptor >> 5 & 1
    size = (single, 2, 4, 8)[descriptor >> 6]
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    if not size:
        return None
    return int.from_bytes(frame[start : start + size], "little") + (256 if size == 2 else 0)
