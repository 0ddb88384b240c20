"""Where a run lies, a local folder or an fsspec URL, and its chunks, each checked before it is unpacked."""

import asyncio
import importlib
import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from zarr.abc.store import ByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from rmtnet.store.committed import LARGEST_RECORD, Committed, nodes_of, parse_record

_LARGE = 2**28
_MANY = 1000
"""Bytes and chunks that an array may declare unchecked."""


class Source:
    """A run, by path or URL, for reading only."""

    def __init__(self, path: str | Path):
        """``path``: a folder, or a URL of fsspec such as ``s3://bucket/b1.zarr``; ``file://`` is a folder, too."""
        self.address = os.fspath(path).rstrip("/") or "/"
        scheme, _, rest = self.address.partition("://")
        self.remote = bool(rest) and scheme != "file"
        self.path = Path(unquote(urlsplit(self.address).path) if scheme == "file" and rest else self.address)
        self._root = Path() if self.remote else self.path.resolve()

    def record(self) -> dict[str, Any]:
        """What the run has committed now.

        Raises
        ------
        FileNotFoundError, NotADirectoryError
            If there is no folder.
        ValueError
            If it holds no run, or one of a newer schema.
        """
        text = self._remote_text() if self.remote else self._local_text()
        if text is None:
            raise ValueError(f"{self.address}: no rmtnet run (it holds no zarr.json); give the .zarr folder of a run")
        if len(text) > LARGEST_RECORD:
            raise ValueError(f"{self.address}: no rmtnet run (its zarr.json is larger than {LARGEST_RECORD:,} bytes)")
        return parse_record(text, self.address)

    def own_record(self) -> dict[str, Any]:
        """The record of a local run that is to be written: no folder in it leads elsewhere.

        Raises
        ------
        FileNotFoundError, NotADirectoryError, ValueError
            As for :meth:`record`; if the run is remote, or one of its folders leads out of it.
        """
        record, root = self.record(), self.folder()
        for path in record["consolidated_metadata"]["metadata"]:
            _inside(root, root / path)
        return record

    def folder(self) -> Path:
        """The run's folder itself, not a link to it.

        Raises
        ------
        ValueError
            If the run is remote.
        """
        if self.remote:
            raise ValueError(f"{self.address} is remote, and is only read: name an output, or copy it here first")
        return self._root

    def group(self, record: Mapping[str, Any], name: str, arrays: Mapping[str, Committed]) -> "CommittedStore":
        """The store of one group, its metadata as committed in ``record``."""
        below = f"{self.address}/{name}"
        store: Store = (
            FsspecStore.from_url(below, read_only=True)
            if self.remote
            else LocalStore(self._root / name, read_only=True)
        )
        return CommittedStore(store, _metadata(record, name), arrays, None if self.remote else self._root)

    def check_size(self, array: Committed) -> None:
        """Refuse, before memory is taken for it, a large array of a local run whose files cannot hold half of it.

        Raises
        ------
        ValueError
            If it declares more than twice the chunks that are there.
        """
        if self.remote or (array.nbytes < _LARGE and math.prod(array.grid) < _MANY):
            return
        folder = _inside(self._root, self._root / array.path)
        for held, declared in _chunks_held(folder, array):
            if 2 * held < declared:
                raise ValueError(
                    f"{self.address}: the run is damaged: {array.path!r} is said to be {array.shape}, "
                    f"but only {held} of {declared} chunks are in {folder}"
                )

    def _local_text(self) -> bytes | None:
        if not self.path.exists():
            raise FileNotFoundError(f"{self.address}: no such run")
        if not self.path.is_dir():
            raise NotADirectoryError(f"{self.address}: a run is a zarr folder, this is a file")
        return read_inside(self._root, self._root / "zarr.json", LARGEST_RECORD)

    def _remote_text(self) -> bytes | None:
        try:
            system, path = importlib.import_module("fsspec").core.url_to_fs(self.address)
            if not system.exists(path):
                raise FileNotFoundError(f"{self.address}: no such run")
            return system.cat_file(f"{path}/zarr.json", 0, LARGEST_RECORD + 1)
        except FileNotFoundError as error:
            if str(error).startswith(self.address):
                raise
            return None
        except (ImportError, ValueError) as error:
            raise ValueError(f"{self.address}: cannot be read ({error}): install the file system's package") from error


class CommittedStore(WrapperStore[Store]):
    """One group of a run as zarr sees it: metadata as committed, and chunks that are there and no larger than said."""

    def __init__(self, store: Store, metadata: bytes, arrays: Mapping[str, Committed], root: Path | None):
        """``root``: the local run, which no chunk may lead out of."""
        super().__init__(store)
        self._metadata, self._arrays, self._root = metadata, arrays, root

    def _with_store(self, store: Store) -> "CommittedStore":
        return type(self)(store, self._metadata, self._arrays, self._root)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """A chunk, or the group's metadata.

        Raises
        ------
        ValueError
            If the chunk is missing, leads out of the run, or is of another size than the record says.
        """
        if key == "zarr.json":
            return prototype.buffer.from_bytes(self._metadata)
        array = self._arrays.get(key.partition("/")[0])
        if array is None or not key.startswith(f"{array.name}/c{array.separator}"):
            return None
        data = await self._read(key, prototype, array.largest_file)
        if data is None and array.may_lack_chunks:
            return None
        if wrong := "it is missing" if data is None else array.what_is_wrong(data):
            raise ValueError(f"{array.group}/{key}: {wrong}")
        return prototype.buffer.from_bytes(data or b"")

    async def _read(self, key: str, prototype: BufferPrototype, largest: int) -> bytes | None:
        if self._root is not None:
            group = next(iter(self._arrays.values())).group
            return await asyncio.to_thread(read_inside, self._root, self._root / group / key, largest)
        # Ask for one byte more than there may be: a file that has it is refused, whatever its size.
        found = await self._store.get(key, prototype, RangeByteRequest(0, largest + 1))
        return None if found is None else found.to_bytes()


def _chunks_held(folder: str, array: Committed) -> Iterator[tuple[int, int]]:
    """(held, declared) numbers of chunks: of all, or where each axis has folders of its own along each of them."""

    def entries(where: str) -> list[str]:
        return os.listdir(where) if os.path.isdir(where) else []

    if array.separator == ".":
        yield sum(name.startswith("c.") for name in entries(folder)), math.prod(array.grid)
        return
    where = os.path.join(folder, "c", *("0" for _ in array.grid[1:]))
    for declared in reversed(array.grid):
        yield len(entries(where)), declared
        where = os.path.dirname(where)


def read_inside(root: Path, path: Path, largest: int) -> bytes | None:
    """The first ``largest`` bytes, and one more, of a file below ``root``; None if there is none.

    Raises
    ------
    ValueError
        If the path leads out of ``root``, or to what is no file.
    """
    real = _inside(root, path)
    try:
        if not stat.S_ISREG(os.stat(real).st_mode):
            raise ValueError(f"{path} is no file")
        with open(real, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            return file.read(min(size, largest + 1))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _inside(root: Path, path: Path) -> str:
    real = os.path.realpath(path)
    if not real.startswith(os.path.join(root, "")):
        raise ValueError(f"{path} leads out of the run, to {real}")
    return real


def _metadata(record: Mapping[str, Any], group: str) -> bytes:
    """The group as a root of its own, with the committed metadata of its arrays."""
    consolidated = {"kind": "inline", "must_understand": False, "metadata": nodes_of(record, group)}
    node = {"zarr_format": 3, "node_type": "group", "attributes": {}, "consolidated_metadata": consolidated}
    return json.dumps(node).encode()
