"""Runs made by plain zarr, not by our writer: what its reader must take as the schema says."""

import json
import math
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, TransposeCodec

DIMS = {
    "weights": ("block", "out", "in"),
    "gradients": ("block", "out", "in"),
    "updates": ("block", "out", "in"),
    "spectra": ("block", "order"),
    "gates": ("gate_row", "gate_col"),
}


def codecs(name, ndim):
    blosc = {"lz4": "lz4", "zstd": "zstd", "delta": "zstd"}.get(name)
    packed = (
        () if blosc is None else (BloscCodec(cname=blosc, clevel=1, shuffle=BloscShuffle.bitshuffle), Crc32cCodec())
    )
    filters = (TransposeCodec(order=(*range(1, ndim), 0)),) if name == "delta" else ()
    return {"filters": filters or None, "compressors": packed or None}


def put(group, name, values, dims, *, chunks=None, codec="lz4", attributes=None):
    """One array; chunks of two rows unless told otherwise."""
    values = np.asarray(values)
    chunks = chunks or (min(2, max(1, len(values))), *values.shape[1:])
    fill = -1 if values.dtype.kind == "i" else np.nan
    array = group.create_array(
        name, shape=values.shape, chunks=chunks, dtype=values.dtype, fill_value=fill, dimension_names=dims,
        attributes=attributes or {}, config={"write_empty_chunks": True}, **codecs(codec, values.ndim),
    )  # fmt: skip
    array[:] = values


def put_steps(group, steps, name="step"):
    put(group, name, np.array(steps, dtype=np.int64), (name,), chunks=(4,), codec="none")


def put_layer(group, variable, values, *, own=None, codec="lz4", chunks=None, **attributes):
    """A layer over ``step``, or over its ``own`` steps."""
    values = np.asarray(values)
    axis = "step" if own is None else f"{variable}_step"
    if own is not None:
        put_steps(group, own, axis)
    kind = group.basename
    if kind in ("weights", "gradients", "updates"):
        attributes = {"form": "dense", "blocks": values.shape[1], **attributes}
    dims = (axis, *(f"{variable}_{dim}" for dim in DIMS.get(kind, ())))
    put(group, variable, values, dims, codec=codec, chunks=chunks, attributes=attributes)


def new_run(path, version=2, **attributes):
    return zarr.create_group(Path(path), zarr_format=3, attributes={"rmtnet_schema": version, **attributes})


def commit(path, stale=True):
    """Write the record at the root; with ``stale`` every array's own metadata then tells another shape."""
    path = Path(path)
    nodes = {}
    for file in sorted(path.rglob("zarr.json")):
        if file.parent != path:
            nodes[file.parent.relative_to(path).as_posix()] = json.loads(file.read_text())
    record = json.loads((path / "zarr.json").read_text())
    record["consolidated_metadata"] = {
        "kind": "inline",
        "must_understand": False,
        "metadata": dict(sorted(nodes.items())),
    }
    (path / "zarr.json").write_text(json.dumps(record))
    for name, node in nodes.items() if stale else ():
        if node["node_type"] == "array":
            shape = [node["shape"][0] + (3 if len(name) % 2 else -1), *node["shape"][1:]]
            (path / name / "zarr.json").write_text(json.dumps({**node, "shape": shape}))


def edit_record(path, change):
    """``change`` gets path -> node of the committed arrays and groups."""
    file = Path(path) / "zarr.json"
    record = json.loads(file.read_text())
    change(record["consolidated_metadata"]["metadata"])
    file.write_text(json.dumps(record))


def matrices(steps, shape=(1, 3, 4), seed=0, dtype="float32"):
    """(T, block, out, in), all different."""
    rng = np.random.default_rng([seed, math.prod(shape)])
    return rng.normal(size=(len(steps), *shape)).astype(dtype)


def full_run(path, codec="lz4", **attributes):
    """Every group, a layer of two forms, one with steps of its own; what was put in it."""
    steps, own = [0, 2, 5, 7, 9], [3, 4, 8]
    root = new_run(path, **attributes)
    held = {"steps": steps, "own": own}
    for k, kind in enumerate(("weights", "gradients", "updates")):
        group = root.create_group(kind)
        put_steps(group, steps)
        held[kind] = {
            "ip1@0": matrices(steps, (1, 3, 4), k),
            "ip1@1": matrices(own, (2, 2, 5), k + 10),
            "a/b": matrices(steps, (1, 2, 2), k + 20),
        }  # fmt: skip
        put_layer(group, "ip1", held[kind]["ip1@0"], codec=codec)
        put_layer(group, "a%2Fb", held[kind]["a/b"], codec=codec)
        put_layer(group, "ip1@1", held[kind]["ip1@1"], own=own, codec=codec, form="block_sparse")
        for place, values in {"block_row": [1, 0], "block_col": [0, 2], "block_height": [2, 1]}.items():
            put(group, f"ip1@1_{place}", np.array(values), ("ip1@1_block",), codec="none")
    weights = held["weights"]
    spectra = root.create_group("spectra")
    put_steps(spectra, steps)
    held["spectra"] = np.linalg.svd(weights["ip1@0"], compute_uv=False)
    put_layer(spectra, "ip1", held["spectra"], codec=codec)
    moments = root.create_group("moments")
    put_steps(moments, steps)
    held["moments"] = {"var_w": np.arange(5.0), "cov_w_dw": -np.arange(5.0)}
    for name, values in held["moments"].items():
        put(moments, f"ip1_{name}", values, ("step",), codec="none")
    gates = root.create_group("gates")
    put_steps(gates, steps)
    held["gates"] = matrices(steps, (2, 3), 7, "float64")
    put_layer(gates, "ip1", held["gates"], codec=codec)
    norms = root.create_group("norms")
    put_steps(norms, steps)
    held["norms"] = np.sqrt((weights["ip1@0"].astype("f8") ** 2).sum(axis=(1, 2, 3)))
    put(norms, "ip1", held["norms"], ("step",), codec="none")
    metrics = root.create_group("metrics")
    put_steps(metrics, steps)
    held["loss"] = np.array([3, 2, np.nan, 1, 0.5])
    put(metrics, "train%2Floss", held["loss"], ("step",), codec="none")
    commit(path)
    return held


def chunk_of(path, array, index):
    return Path(path, array, "c", *map(str, index))
