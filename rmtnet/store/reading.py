"""Reading a run: what was recorded of each layer as labelled lazy arrays, metrics as a Dataset."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from rmtnet.store.committed import Committed, committed, groups_of, nodes_of
from rmtnet.store.layered import (
    NO_ROWS,
    Labelled,
    Layers,
    base_of,
    form_order,
    label_of,
)
from rmtnet.store.schema import CONSTANTS, DIMS, MOMENTS, decode
from rmtnet.store.source import Source


def open_run(path: str | Path) -> "Run":
    """Open the run at ``path`` for reading: what is committed now, read from the disk whenever its values are used.

    A run that is being recorded grows; open it again to see more.

    Parameters
    ----------
    path : a folder, or a URL that fsspec knows, such as ``s3://bucket/b10.zarr``

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no folder at ``path``.
    ValueError
        If the folder holds no run, or one of a newer schema.
    """
    return Run(path)


class Run(Mapping[str, xr.DataArray]):
    """A recorded run: a mapping from layer names to lazy weights, and what else was recorded, group by group."""

    def __init__(self, path: str | Path):
        self.source = Source(path)
        self.path = self.source.path
        self._record = self.source.record()
        self.attrs: dict[str, Any] = self._record["attributes"]
        self._arrays: dict[str, dict[str, Committed]] = {}
        self._opened: dict[str, xr.Dataset] = {}

    def __repr__(self) -> str:
        return f"<Run {self.source.address}: {', '.join(self) or 'no weights'}>"

    @property
    def name(self) -> str:
        """The folder's name without ``.zarr``."""
        return self.path.name.removesuffix(".zarr")

    @property
    def groups(self) -> list[str]:
        """What was recorded: "weights", "metrics", ..."""
        return groups_of(self._record)

    @property
    def steps(self) -> xr.DataArray:
        """(step,) optimizer steps at which weights were recorded."""
        return self.dataset("weights")["step"]

    @property
    def weights(self) -> Layers[xr.DataArray]:
        """Layer -> (step, block, out, in); ``run[layer]`` is the same."""
        return self.layers("weights")

    @property
    def gradients(self) -> Layers[xr.DataArray]:
        """Layer -> (step, block, out, in): gradients of the loss at the weights of that step."""
        return self.layers("gradients")

    @property
    def updates(self) -> Layers[xr.DataArray]:
        """Layer -> (step, block, out, in): what the optimizer then added to the weights of that step."""
        return self.layers("updates")

    @property
    def spectra(self) -> Layers[xr.DataArray]:
        """Layer -> (step, block, order): singular values, descending."""
        return self.layers("spectra")

    @property
    def gates(self) -> Layers[xr.DataArray]:
        """Layer -> (step, gate_row, gate_col): open fraction of each gate."""
        return self.layers("gates")

    @property
    def norms(self) -> Layers[xr.DataArray]:
        """Layer -> (step,): norm of the weights."""
        return self.layers("norms")

    @property
    def moments(self) -> Layers[xr.Dataset]:
        """Layer -> Dataset over step of ``var_w``, ``var_dw``, ``cov_w_dw``, ``var_g``, ``cov_w_g``, those recorded."""
        return Layers(*self._variables("moments"), self._read_moments)

    @cached_property
    def metrics(self) -> xr.Dataset:
        """What was logged, over ``step``: NaN where a metric was not logged.

        A metric called "step" keeps its encoded name, for a Dataset has one variable of a name.
        """
        metrics = self.dataset("metrics")
        names = {variable: decode(str(variable)) for variable in metrics.data_vars}
        return metrics.rename({variable: name for variable, name in names.items() if name != "step"})

    def layers(self, group: str) -> Layers[xr.DataArray]:
        """Layer -> lazy array, of a group that has one array a layer.

        Raises
        ------
        ValueError
            If the group was not recorded; the message lists those that were.
        """
        return Layers(*self._variables(group), partial(self._read, group))

    def arrays(self, group: str) -> dict[str, Committed]:
        """Variable name -> array as committed, of one group.

        Raises
        ------
        ValueError
            If the group was not recorded, or its metadata is damaged.
        """
        if group not in self.groups:
            raise ValueError(
                f"{self.source.address}: no {group} were recorded, only {', '.join(self.groups) or 'nothing'}"
            )
        if group not in self._arrays:
            self._arrays[group] = committed(self._record, self.source.address, group)
        return self._arrays[group]

    def dataset(self, group: str) -> xr.Dataset:
        """One group as it is stored, lazy: variables by their encoded names.

        Raises
        ------
        ValueError
            If the group was not recorded, or is damaged.
        """
        if group not in self._opened:
            arrays = self.arrays(group)
            for array in arrays.values():
                if array.is_steps:
                    self.source.check_size(array)
            self._opened[group] = self._open(group, arrays)
        return self._opened[group]

    def stored(self, group: str) -> zarr.Group:
        """One group as zarr sees it, for reading."""
        store = self.source.group(self._record, group, self.arrays(group))
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)

    def forms(self, name: str) -> list[str]:
        """Names of all forms of a layer, in the order they were recorded: ``["ip1"]``, or ``["ip1@0", "ip1@1"]``."""
        return self._weights.forms(name)

    def __getitem__(self, name: str) -> xr.DataArray:
        """The layer's weights, (step, block, out, in), lazy.

        Raises
        ------
        KeyError
            If no such layer was recorded, or it has several forms; the message lists what there is.
        """
        return self._weights[name]

    def __contains__(self, name: object) -> bool:
        return name in self._weights

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    @cached_property
    def _weights(self) -> Layers[xr.DataArray]:
        """Empty where no weights were recorded, only their spectra."""
        if "weights" in self.groups:
            return self.weights
        return Layers(self.source.address, {}, partial(self._read, "weights"))

    @cached_property
    def _labels(self) -> dict[str, str]:
        """Variable without suffix -> layer, with its form if any group holds several forms of it."""
        found = set().union(*(self._found(group) for group in (*DIMS, "moments")))
        forms = Counter(variable.partition("@")[0] for variable in found)
        return {variable: label_of(variable, forms) for variable in sorted(found, key=form_order)}

    def _found(self, group: str) -> set[str]:
        """Variables of a group that hold rows, without the suffixes of moments."""
        rows = {name for name in nodes_of(self._record, group) if name != "step" and not name.endswith(NO_ROWS)}
        return {base_of(name) for name in rows} if group == "moments" else rows

    def _variables(self, group: str) -> tuple[str, dict[str, str]]:
        self.arrays(group)
        found = self._found(group)
        layers = {layer: variable for variable, layer in self._labels.items() if variable in found}
        return f"{self.source.address}: {group}", layers

    def _read(self, group: str, variable: str, name: str) -> xr.DataArray:
        dataset = self.dataset(group)
        array = dataset[variable]
        if len(array.dims) != 1 + len(DIMS[group]):
            raise ValueError(
                f"{self.source.address}: the run is damaged: {group}/{variable} has dimensions {array.dims}"
            )
        self.source.check_size(self.arrays(group)[variable])
        places = {
            place: ("block", dataset[f"{variable}_{place}"].values)
            for place in CONSTANTS
            if f"{variable}_{place}" in dataset
        }
        array = array.rename(dict(zip(array.dims, ("step", *DIMS[group]), strict=True)))
        array.name = name
        return array.assign_coords(places) if places else array

    def _read_moments(self, variable: str, name: str) -> xr.Dataset:
        dataset = self.dataset("moments")
        names = {f"{variable}_{moment}": moment for moment in MOMENTS if f"{variable}_{moment}" in dataset}
        found = dataset[list(names)].rename(names)
        return found.rename({dim: "step" for dim in found.dims if dim != "step"})

    def _open(self, group: str, arrays: Mapping[str, Committed]) -> xr.Dataset:
        store = self.source.group(self._record, group, arrays)
        try:
            # Without a cache: else the run would keep all that was ever read from it.  Stores of zarr are taken, too.
            dataset = xr.open_dataset(
                store,  # type: ignore[arg-type]
                engine="zarr",
                chunks=None,
                cache=False,
                decode_cf=False,
                consolidated=True,
                zarr_format=3,
            )
            for name, steps in dataset.indexes.items():
                if np.any(np.diff(steps.to_numpy(), prepend=-1) <= 0):
                    raise ValueError(f"{name!r} does not ascend")
        except Exception as error:
            raise ValueError(
                f"{self.source.address}: group {group!r} cannot be read, the run is damaged ({error})"
            ) from error
        return dataset


def load(values: Labelled, run: str | Path, what: str) -> Labelled:
    """Read lazy values of ``run`` into memory.

    Raises
    ------
    ValueError
        If a chunk is damaged or missing: it names the run and ``what`` was to be read.
    MemoryError
        If they do not fit.
    """
    try:
        return values.load()
    except MemoryError:
        raise MemoryError(f"{run}: {what} takes {values.nbytes:,} bytes of memory: choose fewer steps") from None
    except Exception as error:
        steps = values["step"].values.reshape(-1)
        raise ValueError(
            f"{run}: {what} cannot be read between steps {steps[0]} and {steps[-1]}, "
            f"a chunk is damaged ({error}): put the whole run back, or choose other steps"
        ) from error
