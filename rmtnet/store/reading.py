"""Reading a run: layers as labelled (step, block, out, in) arrays, metrics as a Dataset."""

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import xarray as xr

from rmtnet.store.schema import commit_record, decode, layer_variables, natural_order

_POSITIONS = ("block_row", "block_col")
Labelled = TypeVar("Labelled", xr.DataArray, xr.Dataset)


def open_run(path: str | Path) -> "Run":
    """Open the run at ``path`` for reading: what is committed now, loaded when it is used.

    A run that is being recorded grows; open it again to see more.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        If there is no folder at ``path``.
    ValueError
        If the folder holds no run, or one of a newer schema.
    """
    return Run(path)


class Run(Mapping[str, xr.DataArray]):
    """A recorded run: a mapping from layer names to lazy (step, block, out, in) arrays.

    A layer that changed its form has several: ``ip1@0``, ``ip1@1``, ...
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        record = commit_record(self.path)
        self.attrs: dict[str, object] = record["attributes"]
        variables = sorted(layer_variables(record), key=natural_order)
        forms = Counter(variable.partition("@")[0] for variable in variables)
        self._variables = {_layer(variable, forms): variable for variable in variables}
        self._group = cache(self._opened)

    def __repr__(self) -> str:
        return f"<Run {self.path}: {', '.join(self) or 'no layers'}>"

    @property
    def name(self) -> str:
        """The folder's name without ``.zarr``."""
        return self.path.name.removesuffix(".zarr")

    @property
    def steps(self) -> xr.DataArray:
        """(step,) optimizer steps at which weights were recorded."""
        return self._group("weights")["step"]

    @cached_property
    def metrics(self) -> xr.Dataset:
        """What was logged, over ``step``: NaN where a metric was not logged.

        A metric called "step" keeps its encoded name, for a Dataset has one variable of a name.
        """
        metrics = self._group("metrics")
        names = {variable: decode(str(variable)) for variable in metrics.data_vars}
        return metrics.rename({variable: name for variable, name in names.items() if name != "step"})

    def forms(self, name: str) -> list[str]:
        """Names of all forms of a layer, in the order they were recorded: ``["ip1"]``, or ``["ip1@0", "ip1@1"]``."""
        numbered = [(form, *variable.partition("@")[::2]) for form, variable in self._variables.items()]
        return [form for form, base, _ in sorted(numbered, key=lambda row: int(row[2] or 0)) if decode(base) == name]

    def __getitem__(self, name: str) -> xr.DataArray:
        """The layer's weights, (step, block, out, in), lazy.

        Raises
        ------
        KeyError
            If no such layer was recorded, or it has several forms; the message lists what there is.
        """
        if len(forms := self.forms(name)) > 1:
            raise KeyError(f"{self.path}: layer {name!r} has several forms: choose one of {', '.join(forms)}")
        if name not in self._variables:
            raise KeyError(f"{self.path}: no layer {name!r}; recorded are {', '.join(self) or 'none'}")
        variable = self._variables[name]
        dataset = self._group("weights")
        weight = dataset[variable]
        positions = {
            place: ("block", dataset[f"{variable}_{place}"].values)
            for place in _POSITIONS
            if f"{variable}_{place}" in dataset
        }
        weight = weight.rename(dict(zip(weight.dims, ("step", "block", "out", "in"), strict=True)))
        return weight.assign_coords(positions).rename(name)

    def __contains__(self, name: object) -> bool:
        return name in self._variables

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def _opened(self, group: str) -> xr.Dataset:
        try:
            dataset = xr.open_zarr(self.path, group=group, chunks=None, consolidated=True)
        except Exception as error:
            raise ValueError(f"{self.path}: group {group!r} cannot be read, the run is damaged ({error})") from error
        steps = dataset["step"].values
        if np.any(np.diff(steps, prepend=-1) <= 0):
            raise ValueError(
                f"{self.path}: the steps of {group!r} do not ascend: a chunk of them is missing or damaged"
            )
        return dataset


def load(values: Labelled, run: Path, what: str) -> Labelled:
    """Read lazy values of ``run`` into memory.

    Raises
    ------
    ValueError
        If a chunk is damaged: it names the run and ``what`` was to be read.
    """
    try:
        return values.load()
    except Exception as error:
        steps = values["step"].values.reshape(-1)
        raise ValueError(
            f"{run}: {what} cannot be read between steps {steps[0]} and {steps[-1]}, "
            f"a chunk is damaged ({error}): put the whole run back, or choose other steps"
        ) from error


def _layer(variable: str, forms: Counter[str]) -> str:
    name, at, form = variable.partition("@")
    return decode(name) + (f"@{form or 0}" if forms[name] > 1 else at + form)
