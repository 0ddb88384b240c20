"""A run, or some steps of it, in the formats of others: netCDF, safetensors, npz."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rmtnet.store.reading import Run, load
from rmtnet.store.schema import DIMS, decode, encode

_SAFETENSORS = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}


def export(
    run: Run,
    output: str | Path,
    *,
    group: str = "weights",
    layers: Sequence[str] | None = None,
    steps: Sequence[int] | None = None,
) -> Path:
    """Write a group of ``run`` to a file, by its ending: .nc, .safetensors or .npz.

    One array a layer, (step, block, out, in) for weights; of one step (block, out, in).  Beside them an array ``step``,
    or ``<layer>_step`` where layers have different ones.  netCDF keeps dimensions and attributes; safetensors keeps the
    attributes as JSON in its metadata; npz keeps none.  One layer at a time is held in memory.

    Parameters
    ----------
    group : weights, gradients, updates, spectra, gates or norms
    layers : names; None is all
    steps : those to take, recorded for every layer; None is all

    Raises
    ------
    ValueError
        If the ending is none of these, a layer or a step was not recorded, or a chunk is damaged.
    FileExistsError
        If there is something at ``output``.
    OSError
        If the disk has no room for it.
    """
    target = Path(output)
    write = _WRITERS.get(target.suffix)
    if write is None:
        raise ValueError(f"{target}: exports end in {', '.join(_WRITERS)}")
    if group not in DIMS:
        raise ValueError(f"group must be one of {', '.join(DIMS)}, got {group!r}")
    if target.exists():
        raise FileExistsError(f"{target} exists: not overwritten; choose another name")
    held = run.layers(group)
    chosen = {name: _at_steps(held[name], steps, run) for name in (held if layers is None else layers)}
    if not chosen:
        raise ValueError(f"{run.source.address}: no layer to export")
    _check_room(target, sum(array.nbytes for array in chosen.values()))
    partial = target.with_name(f".{target.name}.partial")
    try:
        write(partial, _parts(chosen), run)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _at_steps(array: xr.DataArray, steps: Sequence[int] | None, run: Run) -> xr.DataArray:
    if steps is None:
        return array
    recorded = array["step"].values
    if missing := [step for step in steps if step not in recorded]:
        there = f"{len(recorded)} steps from {recorded[0]} to {recorded[-1]}" if len(recorded) else "none"
        raise ValueError(
            f"{run.source.address}: step {missing[0]} of layer {array.name!r} was not recorded, only {there}"
        )
    return array.sel(step=steps[0] if len(steps) == 1 else list(steps))


def _check_room(target: Path, size: int) -> None:
    """HDF5 ends the whole process when the disk is full."""
    folder = target.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{target.parent}: no such folder to export into")
    if (free := shutil.disk_usage(folder).free) < size:
        raise OSError(f"{target}: takes {size:,} bytes, but its disk has room for {free:,}")


@dataclass(frozen=True)
class _Part:
    """One array of the file: a layer, or what belongs to it."""

    key: str
    dims: tuple[str, ...]
    values: xr.DataArray
    attributes: Mapping[str, Any]


def _parts(chosen: Mapping[str, xr.DataArray]) -> list[_Part]:
    """Layers, places of blocks and steps: one ``step`` if all layers have the same, else one a layer."""
    steps = [array["step"].values for array in chosen.values() if "step" in array.dims]
    same = all(np.array_equal(other, steps[0]) for other in steps)
    found: dict[str, _Part] = {}
    for name, array in chosen.items():
        own = {str(dim): f"{encode(name)}_{dim}" for dim in array.dims if not (same and dim == "step")}
        for place, values in array.coords.items():
            if values.ndim:
                key = "step" if same and place == "step" else f"{encode(name)}_{place}"
                found[key] = _Part(key, tuple(own.get(str(dim), "step") for dim in values.dims), values, values.attrs)
        told = {**array.attrs, **({} if "step" in array.dims else {"step": int(array["step"])})}
        found[encode(name)] = _Part(encode(name), tuple(own.get(str(dim), "step") for dim in array.dims), array, told)
    return list(found.values())


def _write_netcdf(path: Path, parts: Sequence[_Part], run: Run) -> None:
    import h5netcdf

    with h5netcdf.File(path, "w") as file:
        file.attrs.update(_plain(run.attrs))
        for part in parts:
            for dim, size in zip(part.dims, part.values.shape, strict=True):
                if dim not in file.dimensions:
                    file.dimensions[dim] = size
            variable = file.create_variable(part.key, part.dims, part.values.dtype)
            variable[...] = _values(part, run)
            variable.attrs.update(_plain(part.attributes))


def _write_npz(path: Path, parts: Sequence[_Part], run: Run) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for part in parts:
            with archive.open(f"{part.key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, _values(part, run), allow_pickle=False)


def _write_safetensors(path: Path, parts: Sequence[_Part], run: Run) -> None:
    """A length, a JSON header, the bytes: https://huggingface.co/docs/safetensors/index#format."""
    ordered = sorted(parts, key=lambda part: -part.values.dtype.itemsize)
    attributes = {decode(part.key): _plain(part.attributes) for part in parts}
    header: dict[str, Any] = {"__metadata__": {"run": json.dumps(_plain(run.attrs)), "arrays": json.dumps(attributes)}}
    offset = 0
    for part in ordered:
        end = offset + part.values.nbytes
        kind = _SAFETENSORS[str(part.values.dtype)]
        header[decode(part.key)] = {"dtype": kind, "shape": part.values.shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for part in ordered:
            file.write(_values(part, run).data.cast("B"))


def _values(part: _Part, run: Run) -> NDArray[Any]:
    """In memory, row by row, little-endian."""
    values = load(part.values, run.source.address, f"{decode(part.key)!r}").values
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))


def _plain(attributes: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Attributes that every format has."""
    return {
        key: value if isinstance(value, str | int | float) and not isinstance(value, bool) else str(value)
        for key, value in attributes.items()
    }


_WRITERS: dict[str, Callable[[Path, Sequence[_Part], Run], None]] = {
    ".nc": _write_netcdf,
    ".safetensors": _write_safetensors,
    ".npz": _write_npz,
}
