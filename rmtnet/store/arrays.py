"""The arrays of a run, as they are when they are made."""

import warnings
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec

from rmtnet.store.schema import MatrixSpec, chunk_shape, encode

_STEP_CHUNK = 65536
# Weights shrink by a tenth, but the empty rest of a chunk to nothing; the checksum finds damage.
CODECS = (BloscCodec(cname="lz4", clevel=1, shuffle=BloscShuffle.bitshuffle), Crc32cCodec())


def create_steps(group: zarr.Group) -> None:
    """The coordinate of a group's rows, empty."""
    group.create_array(
        "step", shape=(0,), chunks=(_STEP_CHUNK,), dtype="int64", fill_value=-1, dimension_names=("step",),
        attributes={"long_name": "optimizer steps done", "units": "1"},
    )  # fmt: skip


def create_metric(group: zarr.Group, name: str, rows: int) -> None:
    """A metric, NaN in its first ``rows`` rows."""
    group.create_array(
        encode(name), shape=(rows,), chunks=(_STEP_CHUNK,), dtype="float64", fill_value=np.nan,
        dimension_names=("step",), attributes={"long_name": name}, overwrite=True,
    )  # fmt: skip


def create_matrix(group: zarr.Group, spec: MatrixSpec) -> None:
    """A layer without rows, and the places of its blocks where its form does not say them."""
    name = encode(spec.name)
    attributes: dict[str, Any] = {
        "form": spec.form,
        "blocks": spec.shape[0],
        "out_features": spec.out_features,
        "in_features": spec.in_features,
        "long_name": f"weights of {spec.name}",
        "units": "1",
        **spec.attributes,
    }
    group.create_array(
        name, shape=(0, *spec.shape), chunks=chunk_shape(spec.shape, spec.dtype.itemsize), dtype=spec.dtype,
        fill_value=np.nan, compressors=CODECS, attributes=attributes, config={"write_empty_chunks": True},
        dimension_names=("step", f"{name}_block", f"{name}_out", f"{name}_in"),
    )  # fmt: skip
    for place, position in positions(spec).items():
        array = group.create_array(place, shape=(len(position),), dtype="int64", dimension_names=(f"{name}_block",))
        array[:] = np.asarray(position)


def positions(spec: MatrixSpec) -> dict[str, tuple[int, ...]]:
    """Variables that say where the blocks are, for the form that does not say it."""
    name = encode(spec.name)
    places = {f"{name}_block_row": spec.block_row, f"{name}_block_col": spec.block_col}
    return places if spec.form == "block_sparse" else {}


def consolidate(root: zarr.Group) -> None:
    """Collect the metadata of all arrays at the root, where readers look."""
    with warnings.catch_warnings():
        # zarr says that the v3 spec lacks consolidated metadata, and that the lock file is no array: both are known.
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(root.store)
