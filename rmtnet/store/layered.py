"""What a group of a run is to its reader: a mapping from layers to labelled arrays; how its variables are named."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import xarray as xr

from rmtnet.store.schema import CONSTANTS, MOMENT_SUFFIXES, decode, natural_order

NO_ROWS = ("_step", *(f"_{place}" for place in CONSTANTS))
Labelled = TypeVar("Labelled", xr.DataArray, xr.Dataset)


class Layers(Mapping[str, Labelled]):
    """What one group of a run holds of each layer: a mapping from layer names to lazy arrays.

    A layer that changed its form has several: ``ip1@0``, ``ip1@1``, ...
    """

    def __init__(self, where: str, variables: Mapping[str, str], read: Callable[[str, str], Labelled]):
        """``variables``: layer -> variable; ``read``: what a variable holds, under a layer's name."""
        self._where, self._variables = where, variables
        self._read: Callable[[str, str], Any] = read

    def __repr__(self) -> str:
        return f"<{self._where}: {', '.join(self) or 'no layers'}>"

    def forms(self, name: str) -> list[str]:
        """Names of all forms of a layer, in the order they were recorded: ``["ip1"]``, or ``["ip1@0", "ip1@1"]``."""
        return [form for form, variable in self._variables.items() if decode(variable.partition("@")[0]) == name]

    def variable(self, name: str) -> str:
        """Under which name the group stores a layer (without the suffixes of moments)."""
        return self._variables[name]

    def __getitem__(self, name: str) -> Labelled:
        """What was recorded of a layer, over ``step``, lazy.

        Raises
        ------
        KeyError
            If no such layer was recorded, or it has several forms; the message lists what there is.
        """
        if name in self._variables:
            return self._read(self._variables[name], name)
        if forms := self.forms(name):
            raise KeyError(f"{self._where}: layer {name!r} has several forms: choose one of {', '.join(forms)}")
        raise KeyError(f"{self._where}: no layer {name!r}; recorded are {', '.join(self) or 'none'}")

    def __contains__(self, name: object) -> bool:
        return name in self._variables

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


def base_of(variable: str) -> str:
    return next((variable.removesuffix(suffix) for suffix in MOMENT_SUFFIXES if variable.endswith(suffix)), variable)


def label_of(variable: str, forms: Counter[str]) -> str:
    name, at, form = variable.partition("@")
    return decode(name) + (f"@{form or 0}" if forms[name] > 1 else at + form)


def form_order(variable: str) -> tuple[list[tuple[int, str]], int]:
    name, _, form = variable.partition("@")
    return natural_order(name), int(form) if form.isdecimal() else 0
