"""Analysing one layer of a run beside its reference."""

from collections.abc import Callable, Collection, Iterable

import numpy as np
import xarray as xr

from rmtnet import labelled
from rmtnet.analysis.steps import choose_steps
from rmtnet.store import Run, load

_SLICE_BYTES = 64 * 2**20
# Those whose rounding is known.
_DTYPES = ("float64", "float32", "float16", "bfloat16")
# A reference's moments by path, layer and steps: many runs are compared with the same ones.
Moments = dict[tuple[str, str, tuple[int, ...]], xr.Dataset]
# From the weights of some steps (after the one before them, if any) and their singular values.
GROUPS: dict[str, Callable[[xr.DataArray, xr.DataArray], xr.Dataset]] = {
    "local": lambda weight, values: labelled.level_statistics(values),
    "budget": lambda weight, values: labelled.variance_budget(weight),
    "tails": lambda weight, values: labelled.tail_assessments(
        weight.sel(step=values["step"]), values, dtype=_stored_dtype(weight)
    ),
}
"""Statistics that cost more or are wanted less, by the name to ask for them."""


def analyze_layer(
    run: Run, name: str, reference: Run | None, *, steps: str | None, also: Collection[str], moments: Moments
) -> xr.Dataset:
    """Every statistic of one layer over the chosen steps."""
    weight = run[name]
    weight = weight.sel(step=choose_steps(weight["step"].values, steps))
    if weight.sizes["step"] == 0:
        raise ValueError(f"{run.path}: no step of layer {name!r} is recorded{'' if steps is None else f' in {steps}'}")
    found = xr.concat(
        list(_by_slices(weight, run, also)), "step", data_vars="minimal", compat="override", coords="minimal"
    )
    form = {"form": weight.attrs["form"], **dict(zip(("blocks", "m", "n"), weight.shape[1:], strict=True))}
    compared = _compared(found, weight, run, reference, moments)
    return compared.drop_vars(["fourth_moment", "entries", "noise_kurtosis"]).assign(form).assign_coords(layer=name)


def _by_slices(weight: xr.DataArray, run: Run, also: Collection[str]) -> Iterable[xr.Dataset]:
    before = weight[:0]
    dtype = _stored_dtype(weight)
    for part in _slices(weight, run):
        values = labelled.singular_values(part)
        found = labelled.spectrum(part, values, dtype=dtype)
        joined = xr.concat([before, part], "step") if "budget" in also else part
        groups = [GROUPS[group](joined, values).sel(step=part["step"]) for group in also]
        before = part[-1:]
        yield xr.merge([found, *groups])


def _stored_dtype(weight: xr.DataArray) -> str | None:
    """That of the weights before they were recorded, if it is one whose rounding is known."""
    dtype = str(weight.attrs.get("dtype_original", weight.dtype))
    return dtype if dtype in _DTYPES else None


def _slices(weight: xr.DataArray, run: Run) -> Iterable[xr.DataArray]:
    """The layer in parts that fit into memory, each checked to be finite."""
    rows = max(1, _SLICE_BYTES // max(1, weight[0].size * 8))
    for first in range(0, weight.sizes["step"], rows):
        part = load(weight.isel(step=slice(first, first + rows)), run.path, f"layer {weight.name!r}")
        finite = np.isfinite(part.values).all(axis=(1, 2, 3))
        if not finite.all():
            step = int(part["step"].values[~finite][0])
            raise ValueError(
                f"{run.path}: layer {weight.name!r} holds NaN or infinity at step {step}: did training diverge there, "
                "or is a chunk file missing? choose other --steps"
            )
        yield part


def _compared(found: xr.Dataset, weight: xr.DataArray, run: Run, reference: Run | None, moments: Moments) -> xr.Dataset:
    """With what the layer is beside its reference; a layer that has none, or is its own, beside R of its own shape."""
    shape = null_like = _shape(weight)
    other = found
    if reference is not None and reference.path.resolve() != run.path.resolve():
        sister = _sister(reference, str(weight.name), weight)
        null_like, other = _shape(sister), _moments_at(sister, weight, reference, moments)
    ratios = labelled.variance_ratio_interval(found, other)
    if other is found:
        # To itself it is 1, without an error; without a reference there is none.
        ratios = xr.ones_like(ratios).where(ratios["variance_ratio"].notnull() & (reference is not None))
    against = labelled.against_null(found, other["variance"], null_like)
    null = labelled.mean_deviation_null(
        against["mean_deviation"],
        shape,
        reference=None if other is found else null_like,
        kurtosis=found["noise_kurtosis"],
    )
    return xr.merge([found, ratios, against, null])


def _shape(weight: xr.DataArray) -> labelled.Shape:
    return weight.sizes["block"], weight.sizes["out"], weight.sizes["in"]


def _sister(reference: Run, name: str, weight: xr.DataArray) -> xr.DataArray:
    """The reference's layer of that name, if it is of the same size."""
    cure = "choose other layers with --layer, or another --reference"
    if name not in reference:
        raise ValueError(f"{reference.path}: the reference has no layer {name!r}, only {', '.join(reference)}: {cure}")
    sister = reference[name]
    here, there = ((array.attrs["out_features"], array.attrs["in_features"]) for array in (weight, sister))
    if here != there:
        raise ValueError(f"layer {name!r} is {here} in the run and {there} in {reference.path}: {cure}")
    counts = {array.sizes["block"] * min(array.shape[2:]) for array in (weight, sister)}
    if len(counts) > 1:
        raise ValueError(f"layer {name!r} has another number of singular values than in {reference.path}: {cure}")
    return sister


def _moments_at(sister: xr.DataArray, weight: xr.DataArray, reference: Run, moments: Moments) -> xr.Dataset:
    """The moments of the sister's entries at the steps of ``weight``; NaN at those it has not."""
    shared = np.intersect1d(sister["step"].values, weight["step"].values)
    if len(shared) == 0:
        raise ValueError(
            f"{reference.path}: layer {sister.name!r} has no step in common with the runs: choose other --steps"
        )
    key = (str(reference.path), str(sister.name), tuple(shared))
    if key not in moments:
        parts = [labelled.entry_moments(part) for part in _slices(sister.sel(step=shared), reference)]
        moments[key] = xr.concat(parts, "step", data_vars="minimal", coords="minimal", compat="override")
    return moments[key].reindex(step=weight["step"])
