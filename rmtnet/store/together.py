"""Many runs as one: a Dataset over runs and steps that reads only what is asked of it."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from rmtnet.store.reading import Run, open_run
from rmtnet.store.schema import DIMS

_ORIGIN = ("study", "network", "seed", "started")


def open_runs(
    runs: Iterable[str | Path | Run], *, group: str = "weights", layers: Sequence[str] | None = None
) -> xr.Dataset:
    """One Dataset of the layers that several runs share, lazy and without dask.

    Parameters
    ----------
    runs : paths, URLs or open runs
    group : one with one array a layer: weights, gradients, updates, spectra, gates or norms
    layers : names; None is all that all runs have in one shape, the others are named in the attribute ``left_out``

    Returns
    -------
    Dataset with a variable (run, step, <layer>_block, <layer>_out, <layer>_in) a layer, over the steps that all runs
    recorded; a layer with other steps than the first has ``<layer>_step``.  Coordinates of ``run``: its name (its path
    if two have one name), and ``study``, ``network``, ``seed``, ``started`` where the runs tell them.

    Raises
    ------
    ValueError
        If there are no runs, no layer or no step is common to all, or a layer of ``layers`` differs in shape.
    """
    given = [runs] if isinstance(runs, str | Path | Run) else runs
    opened = [run if isinstance(run, Run) else open_run(run) for run in given]
    if not opened:
        raise ValueError("open_runs needs at least one run, got none")
    if group not in DIMS:
        raise ValueError(f"group must be one of {', '.join(DIMS)}, got {group!r}")
    common, left_out = _shared_layers(opened, group, layers)
    variables: dict[str, xr.Variable] = {}
    coords: dict[str, tuple[str, Any]] = _origins(opened)
    for name in common:
        arrays = [run.layers(group)[name] for run in opened]
        steps = functools.reduce(np.intersect1d, (array["step"].values for array in arrays))
        if len(steps) == 0:
            raise ValueError(f"the runs {', '.join(run.name for run in opened)} share no step of layer {name!r}")
        axis = "step" if np.array_equal(steps, coords.setdefault("step", ("step", steps))[1]) else f"{name}_step"
        coords[axis] = (axis, steps)
        stacked = indexing.LazilyIndexedArray(Stacked([_at(array, steps) for array in arrays]))
        variables[name] = xr.Variable(
            ("run", axis, *(f"{name}_{dim}" for dim in DIMS[group])), stacked, arrays[0].attrs
        )
    return xr.Dataset(variables, coords, {"left_out": ", ".join(left_out)})


def _shared_layers(runs: Sequence[Run], group: str, asked: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Layers that have one shape in all runs, and the others."""
    found = [run.layers(group) for run in runs]
    names = list(dict.fromkeys(name for layers in found for name in layers)) if asked is None else list(asked)
    shapes = {name: [layers[name].shape[1:] if name in layers else None for layers in found] for name in names}
    common = [name for name in names if None not in shapes[name] and len(set(shapes[name])) == 1]
    left_out = [name for name in names if name not in common]
    if left_out and (asked is not None or not common):
        each = zip(runs, shapes[left_out[0]], strict=True)
        held = ", ".join(f"{run.name}: {shape or 'no such layer'}" for run, shape in each)
        raise ValueError(f"layer {left_out[0]!r} must have one shape in all runs, got {held}")
    if not common:
        raise ValueError(f"the runs {', '.join(run.name for run in runs)} hold no {group} of any layer")
    return common, left_out


def _at(array: xr.DataArray, steps: NDArray[np.int64]) -> xr.DataArray:
    """Slices are read faster than lists of steps."""
    return array if np.array_equal(array["step"].values, steps) else array.sel(step=steps)


def _origins(runs: Sequence[Run]) -> dict[str, tuple[str, Any]]:
    names = [run.name for run in runs]
    labels = names if len(set(names)) == len(names) else [run.source.address for run in runs]
    told = {key: [run.attrs.get(key, "") for run in runs] for key in _ORIGIN}
    columns = {
        key: values if all(type(value) is int for value in values) else list(map(str, values))
        for key, values in told.items()
        if any(value != "" for value in values)
    }
    return {name: ("run", values) for name, values in {"run": labels, **columns}.items()}


class Stacked(BackendArray):
    """Lazy arrays of one shape along a new first axis: only those asked for are read."""

    def __init__(self, arrays: Sequence[xr.DataArray]):
        self._arrays = arrays
        self.shape = (len(arrays), *arrays[0].shape)
        self.dtype = np.result_type(*arrays)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """``key``: whole numbers, slices and 1-D arrays, each along its own axis."""
        which, rest = np.arange(len(self._arrays))[key[0]], dict(zip(self._arrays[0].dims, key[1:], strict=True))
        if np.ndim(which) == 0:
            return np.asarray(self._arrays[int(which)].isel(rest).values, dtype=self.dtype)
        first = self._arrays[0].isel(rest)
        out = np.empty((len(which), *first.shape), dtype=self.dtype)
        for place, index in enumerate(which):
            out[place] = self._arrays[index].isel(rest).values
        return out
