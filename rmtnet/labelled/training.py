"""What happens over steps: the variance budget, drifts, and when layers leave the noise."""

from collections.abc import Callable

import numpy as np
import xarray as xr

from rmtnet import budget, trends
from rmtnet.labelled.apply import WEIGHT

_TERMS = {"variance_change": "change", "update_variance": "update_variance", "covariance_term": "covariance_term"}
_DRIFT = ("slope", "standard_error", "p_value", "low", "high", "autocorrelation")
_FALL = ("fall", "low", "high", "observed", "deepest", "deepest_step")


def variance_budget(weight: xr.DataArray) -> xr.Dataset:
    """What moves the variance from each step to the next; NaN at the last.

    Parameters
    ----------
    weight : (..., step, block, out, in), at the steps to compare

    Returns
    -------
    ``variance_change``, ``update_variance``, ``covariance_term``, each (..., step): the first is the sum of the others
    """
    core = ["step", *WEIGHT]

    def measured(stack: np.ndarray) -> tuple[np.ndarray, ...]:
        last = np.full((*stack.shape[:-4], 1), np.nan)
        if stack.shape[-4] < 2:
            return tuple(last for _ in _TERMS)
        found = budget.variance_budget(stack)
        return tuple(np.concatenate([getattr(found, term), last], axis=-1) for term in _TERMS.values())

    found = xr.apply_ufunc(
        measured, weight, input_core_dims=[core], output_core_dims=[["step"] for _ in _TERMS], keep_attrs=False
    )
    return xr.Dataset(dict(zip(_TERMS, found, strict=True)))


def step_budget(moments: xr.Dataset) -> xr.Dataset:
    """The same of the one optimizer step that follows each step, from what a recorder measured there.

    Parameters
    ----------
    moments : ``var_dw``, ``cov_w_dw``, each (..., step); NaN where they were not recorded
    """
    update, covariance = moments["var_dw"], 2 * moments["cov_w_dw"]
    terms = (update + covariance, update, covariance)
    return xr.Dataset({name: term.drop_attrs() for name, term in zip(_TERMS, terms, strict=True)})


def first_departure(
    p: xr.DataArray, *, level: float = 0.05, method: str = "holm", consecutive: int = 1
) -> xr.DataArray:
    """The first step at which each layer leaves the null: (..., layer, step) p-values -> (..., layer), NaN for never.

    p-values are corrected for all layers and steps, of each run by itself: :func:`rmtnet.trends.first_departure`.
    """

    def found(p: np.ndarray, steps: np.ndarray) -> np.ndarray:
        return trends.first_departure(p, steps, level=level, method=method, consecutive=consecutive)

    core = ["layer", "step"]
    return xr.apply_ufunc(
        found, p, p["step"], input_core_dims=[core, ["step"]], output_core_dims=[["layer"]], vectorize=True
    )


def drift(series: xr.DataArray, *, log_steps: bool = False, level: float = 0.95, seed: int = 0) -> xr.Dataset:
    """Slope over steps with errors robust to autocorrelation: :func:`rmtnet.trends.drift`.

    Parameters
    ----------
    series : (..., step), at evenly spaced steps (``.sel(step=slice(100, None, 100))``); NaN is left out
    log_steps, level, seed : as there

    Returns
    -------
    ``slope``, ``standard_error``, ``p_value``, ``low``, ``high``, ``autocorrelation``, each (...); NaN where all is
    """

    def line(steps: np.ndarray, values: np.ndarray) -> trends.Drift:
        return trends.drift(steps, values, log_steps=log_steps, level=level, seed=seed)

    return _over_steps(series, lambda *known: [getattr(line(*known), name) for name in _DRIFT], _DRIFT)


def deterioration(ratio: xr.DataArray, *, log_steps: bool = False, level: float = 0.95, seed: int = 0) -> xr.Dataset:
    """How far a variance ratio has fallen from its start: :func:`rmtnet.trends.deterioration`.

    Parameters
    ----------
    ratio : (..., step), at evenly spaced steps; NaN is left out
    log_steps, level, seed : as for :func:`drift`

    Returns
    -------
    ``fall``, ``low``, ``high``, ``observed``, ``deepest``, ``deepest_step``, ``p_value`` (of no drift), each (...)
    """

    def fallen(steps: np.ndarray, values: np.ndarray) -> list[float]:
        found = trends.deterioration(steps, values, log_steps=log_steps, level=level, seed=seed)
        return [*(getattr(found, name) for name in _FALL), found.drift.p_value]

    return _over_steps(ratio, fallen, (*_FALL, "p_value"))


def _over_steps(
    series: xr.DataArray, measure: Callable[[np.ndarray, np.ndarray], list[float]], names: tuple[str, ...]
) -> xr.Dataset:
    def measured(values: np.ndarray, steps: np.ndarray) -> tuple[float, ...]:
        known = np.isfinite(values)
        return tuple(measure(steps[known], values[known]) if known.any() else [np.nan] * len(names))

    found = xr.apply_ufunc(
        measured,
        series,
        series["step"],
        input_core_dims=[["step"], ["step"]],
        output_core_dims=[[] for _ in names],
        output_dtypes=[float for _ in names],
        vectorize=True,
    )
    return xr.Dataset(dict(zip(names, found, strict=True)))
