"""rmtnet: what happens inside a layer while it trains, seen through random-matrix theory."""

import importlib
from typing import TYPE_CHECKING, Any

from rmtnet._version import __version__ as __version__

if TYPE_CHECKING:
    from rmtnet import store
    from rmtnet.analysis import analyze_runs, long_table
    from rmtnet.bulk import BulkFit, fit_bulk, fit_noise
    from rmtnet.edges.signals import spikes
    from rmtnet.laws import MarchenkoPastur, TracyWidom, VarianceProfile
    from rmtnet.nulls import ordered_null
    from rmtnet.record import Recorder
    from rmtnet.sisters import mean_deviation, singular_value_ratio, variance_ratio
    from rmtnet.spectra import aggregate, eigenvalues, kurtosis, singular_values, variance
    from rmtnet.study import Study
    from rmtnet.tails import assess_tail

_HOMES = {
    **dict.fromkeys(("MarchenkoPastur", "TracyWidom", "VarianceProfile"), "laws"),
    "Recorder": "record",
    "Study": "study",
    **dict.fromkeys(("analyze_runs", "long_table"), "analysis"),
    **dict.fromkeys(("BulkFit", "fit_bulk", "fit_noise"), "bulk"),
    "spikes": "edges",
    **dict.fromkeys(("mean_deviation", "singular_value_ratio", "variance_ratio"), "sisters"),
    **dict.fromkeys(("aggregate", "eigenvalues", "kurtosis", "singular_values", "variance"), "spectra"),
    "assess_tail": "tails",
    "ordered_null": "nulls",
}

__all__ = [
    "BulkFit",
    "MarchenkoPastur",
    "Recorder",
    "Study",
    "TracyWidom",
    "VarianceProfile",
    "aggregate",
    "analyze_runs",
    "assess_tail",
    "eigenvalues",
    "fit_bulk",
    "fit_noise",
    "kurtosis",
    "long_table",
    "mean_deviation",
    "ordered_null",
    "singular_value_ratio",
    "singular_values",
    "spikes",
    "store",
    "variance",
    "variance_ratio",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"rmtnet.{_HOMES[name]}"), name)
    if name == "store":
        return importlib.import_module("rmtnet.store")
    raise AttributeError(f"module 'rmtnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
