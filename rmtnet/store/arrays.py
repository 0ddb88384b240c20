"""The arrays of a run, as they are when they are made."""

import warnings
from typing import Any

import numpy as np
import zarr
from zarr.abc.codec import Codec
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, TransposeCodec

from rmtnet.store.schema import CHUNK_BYTES, LONGEST_CHUNK, MATRIX, RowSpec, chunk_shape

_STEP_CHUNK = 8192
# One file a chunk: with zarr's own choice each is in three folders of its own.
KEYS: Any = {"name": "default", "separator": "."}
CODECS = ("none", "lz4", "zstd", "delta")


def create_steps(group: zarr.Group, name: str = "step") -> None:
    """A coordinate of rows, empty."""
    group.create_array(
        name, shape=(0,), chunks=(_STEP_CHUNK,), dtype="int64", fill_value=-1, dimension_names=(name,),
        chunk_key_encoding=KEYS, compressors=None, attributes={"long_name": "optimizer steps done", "units": "1"},
    )  # fmt: skip


def create_rows(
    group: zarr.Group, spec: RowSpec, codec: str, depth: int, *, most: int = CHUNK_BYTES, rows: int = 0
) -> list[str]:
    """A variable of ``rows`` missing rows, and what is constant of it (the places of its blocks): their names.

    Parameters
    ----------
    codec : one of ``CODECS``, for matrices; what is smaller is put in place, uncompressed
    depth : rows that a chunk should hold
    most : bytes of a chunk
    """
    name = spec.variable
    if spec.dims != MATRIX:
        codec, depth = "none", _STEP_CHUNK if not spec.shape else LONGEST_CHUNK
    chunks = chunk_shape(spec.shape, spec.dtype.itemsize, depth, codec, most)
    encoding: dict[str, Any] = codecs(codec, len(chunks))
    attributes: dict[str, Any] = dict(spec.attributes)
    group.create_array(
        name, shape=(rows, *spec.shape), chunks=chunks, dtype=spec.dtype, fill_value=np.nan, overwrite=True,
        attributes=attributes, chunk_key_encoding=KEYS, **encoding,
        config={"write_empty_chunks": True}, dimension_names=(spec.axis, *(f"{name}_{dim}" for dim in spec.dims)),
    )  # fmt: skip
    for suffix, values in spec.constants.items():
        place = group.create_array(
            f"{name}_{suffix}", shape=(len(values),), dtype="int64", dimension_names=(f"{name}_block",), overwrite=True
        )
        place[:] = np.asarray(values)
    return [name, *(f"{name}_{suffix}" for suffix in spec.constants)]


def codecs(name: str, ndim: int) -> dict[str, tuple[Codec, ...] | None]:
    """Filters and compressors of a codec.

    "lz4" shrinks weights by a tenth, the empty rest of a chunk to nothing.  "delta" puts the steps of an entry side by
    side, whose leading bits agree.  Compressed chunks have a checksum, which finds damage.
    """
    if name == "none":
        return {"filters": None, "compressors": None}
    packed = BloscCodec(cname="lz4" if name == "lz4" else "zstd", clevel=1, shuffle=BloscShuffle.bitshuffle)
    filters = (TransposeCodec(order=(*range(1, ndim), 0)),) if name == "delta" else None
    return {"filters": filters, "compressors": (packed, Crc32cCodec())}


def consolidate(root: zarr.Group) -> None:
    """Collect the metadata of all arrays at the root, where readers look."""
    with warnings.catch_warnings():
        # zarr says that the v3 spec lacks consolidated metadata, and that the lock file is no array: both are known.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(root.store)


def group_of(root: zarr.Group, name: str) -> zarr.Group:
    """A group of the run, made with its steps if it is not there."""
    if f"{name}/step" not in root:
        create_steps(root.require_group(name))
    group: Any = root[name]
    assert isinstance(group, zarr.Group)
    return group
