"""What a run holds of a layer: its weights, or their singular values where it holds no weights."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby
from typing import Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from rmtnet import labelled
from rmtnet.analysis.steps import choose_steps
from rmtnet.store import Run, load, natural_order

_SLICE_BYTES = 64 * 2**20
# Those whose rounding is known.
_DTYPES = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Layer:
    """One form of a layer of a run, at some of its steps."""

    run: Run
    name: str
    recorded: xr.DataArray
    """Weights (step, block, out, in), or singular values (step, block, order); lazy."""

    @property
    def source(self) -> str:
        """Group that it comes from."""
        return "spectra" if "order" in self.recorded.dims else "weights"

    @property
    def steps(self) -> xr.DataArray:
        """(step,)"""
        return self.recorded["step"]

    @property
    def features(self) -> tuple[int, int]:
        """Outputs and inputs of the whole layer."""
        return self.recorded.attrs["out_features"], self.recorded.attrs["in_features"]

    @cached_property
    def shape(self) -> labelled.Shape:
        """(block, out, in)"""
        if self.source == "weights":
            blocks, out, width = self.recorded.shape[1:]
            return blocks, out, width
        blocks, order = self.recorded.shape[1:]
        out, width = (int(self.recorded.attrs.get(side, 0)) for side in ("block_out", "block_in"))
        if min(out, width) != order:
            raise ValueError(
                f"{self.run.path}: the shape of the blocks of layer {self.name!r} cannot be told from its singular "
                "values: record its weights"
            )
        return blocks, out, width

    @property
    def block(self) -> dict[str, int]:
        """Sides of a block, as arguments."""
        return {"out": self.shape[1], "width": self.shape[2]}

    @property
    def dtype(self) -> str | None:
        """That of the weights before they were recorded, if it is one whose rounding is known."""
        default = self.recorded.dtype if self.source == "weights" else None
        dtype = str(self.recorded.attrs.get("dtype_original", default))
        return dtype if dtype in _DTYPES else None

    @cached_property
    def budget_moments(self) -> xr.Dataset | None:
        """What was recorded of the variance budget, at all steps."""
        found = self.run.moments.get(self.name) if "moments" in self.run.groups else None
        if found is None or not {"var_w", "var_dw", "cov_w_dw"} <= {*found}:
            return None
        return load(found, self.run.path, f"the moments of layer {self.name!r}")

    def at(self, steps: NDArray[np.int64]) -> Self:
        """The same at those of its steps that are among ``steps``."""
        return replace(self, recorded=self.recorded.sel(step=np.intersect1d(steps, self.steps.values)))

    def parts(self) -> Iterator[xr.DataArray]:
        """What is recorded, in parts whose weights fit into memory."""
        rows = max(1, _SLICE_BYTES // (8 * int(np.prod(self.shape))))
        for first in range(0, len(self.steps), rows):
            yield self._read(slice(first, first + rows))

    def moments(self, part: xr.DataArray) -> xr.Dataset:
        """Moments of the entries, those that are known."""
        if self.source == "weights":
            return labelled.entry_moments(part)
        return labelled.moments_of_values(part, **self.block)

    def spectrum(self, part: xr.DataArray, values: xr.DataArray) -> xr.Dataset:
        """All statistics that need no other layer."""
        if self.source == "weights":
            return labelled.spectrum(part, values, dtype=self.dtype)
        found = labelled.spectrum_of_values(values, **self.block, dtype=self.dtype)
        if self.budget_moments is None:
            return found
        return found.assign(variance=self.budget_moments["var_w"].reindex_like(values["step"]).drop_attrs())

    def tails(self, part: xr.DataArray, values: xr.DataArray) -> xr.Dataset:
        """Against the layer's own entries, or Gaussian ones."""
        entries = part if self.source == "weights" else labelled.gaussian_entries(values, **self.block)
        return labelled.tail_assessments(entries, values, dtype=self.dtype)

    def budget(self, part: xr.DataArray) -> xr.Dataset:
        """Of the next optimizer step where that was recorded, else until the next of the steps."""
        if self.budget_moments is not None:
            return labelled.step_budget(self.budget_moments.reindex_like(part["step"]))
        after = int(np.searchsorted(self.steps.values, part["step"].values[-1])) + 1
        joined = xr.concat([part, self._read(slice(after, after + 1))], "step")
        return labelled.variance_budget(joined).sel(step=part["step"])

    def _read(self, rows: slice) -> xr.DataArray:
        part = load(self.recorded.isel(step=rows), self.run.path, f"layer {self.name!r}")
        finite = np.isfinite(part.values).all(axis=tuple(range(1, part.ndim)))
        if not finite.all():
            step = int(part["step"].values[~finite][0])
            raise ValueError(
                f"{self.run.path}: layer {self.name!r} holds NaN or infinity at step {step}: did training diverge "
                "there, or is a chunk file missing? choose other --steps"
            )
        return part


def layer_names(run: Run) -> list[str]:
    """All layers whose weights or singular values were recorded, each form of one."""
    return sorted({*run, *(run.spectra if "spectra" in run.groups else ())}, key=natural_order)


def layer_of(run: Run, name: str) -> Layer:
    """The layer from its weights, without them from its singular values."""
    return Layer(run, name, run[name] if name in run else run.spectra[name])


def without_form(name: str) -> str:
    """``ip1`` of ``ip1@1``."""
    return re.sub(r"@\d+$", "", name)


def chosen_layers(run: Run, globs: Sequence[str], steps: str | None) -> list[Layer]:
    """The layers whose names match, with or without their form, at the chosen steps; forms without any are left out.

    Raises
    ------
    ValueError
        If a layer has none of the steps.
    """
    named = [
        name
        for name in layer_names(run)
        if any(fnmatchcase(name, glob) or fnmatchcase(without_form(name), glob) for glob in globs)
    ]
    return [layer for _, forms in groupby(named, without_form) for layer in _at_steps(run, [*forms], steps)]


def _at_steps(run: Run, names: Sequence[str], steps: str | None) -> list[Layer]:
    """The forms of one layer, each at those of its steps that are chosen from the steps of all."""
    forms = [layer_of(run, name) for name in names]
    chosen = choose_steps(np.unique(np.concatenate([form.steps.values for form in forms])), steps)
    found = [form for form in (form.at(chosen) for form in forms) if len(form.steps)]
    if not found:
        among = "" if steps is None else f" in {steps}"
        raise ValueError(f"{run.path}: no step of layer {without_form(names[0])!r} is recorded{among}")
    return found
