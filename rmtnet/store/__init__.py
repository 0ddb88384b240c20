"""Run stores: the only package that knows zarr.

A run is one zarr v3 folder with a flat group for each kind of thing recorded (``weights``, ``metrics``, ...), readable
by plain xarray.  :func:`open_run` gives it labelled; :class:`RunWriter` is how a recorder fills it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rmtnet.store.arrays import CODECS
    from rmtnet.store.copying import compact, thin
    from rmtnet.store.exporting import export
    from rmtnet.store.health import Health, Repair, repair, verify
    from rmtnet.store.lock import RunLocked
    from rmtnet.store.reading import Run, load, open_run
    from rmtnet.store.schema import (
        FORMS,
        GROUPS,
        MATRICES,
        SCHEMA_VERSION,
        TRANSITIONS,
        MatrixSpec,
        RowSpec,
        check_unique,
        natural_order,
    )
    from rmtnet.store.summary import Overview, overview
    from rmtnet.store.together import open_runs
    from rmtnet.store.writing import RunWriter

# Looked up when they are asked for: the process that writes needs no xarray.
_HOMES = {
    "CODECS": "arrays",
    **dict.fromkeys(("compact", "thin"), "copying"),
    **dict.fromkeys(("Health", "Repair", "repair", "verify"), "health"),
    "RunLocked": "lock",
    **dict.fromkeys(("Overview", "overview"), "summary"),
    "export": "exporting",
    **dict.fromkeys(("Run", "load", "open_run"), "reading"),
    **dict.fromkeys(("FORMS", "GROUPS", "MATRICES", "SCHEMA_VERSION", "TRANSITIONS"), "schema"),
    **dict.fromkeys(("MatrixSpec", "RowSpec", "check_unique", "natural_order"), "schema"),
    "open_runs": "together",
    "RunWriter": "writing",
}

__all__ = [
    "CODECS",
    "FORMS",
    "GROUPS",
    "MATRICES",
    "SCHEMA_VERSION",
    "TRANSITIONS",
    "Health",
    "MatrixSpec",
    "Overview",
    "Repair",
    "RowSpec",
    "Run",
    "RunLocked",
    "RunWriter",
    "check_unique",
    "compact",
    "export",
    "load",
    "natural_order",
    "open_run",
    "open_runs",
    "overview",
    "repair",
    "thin",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rmtnet.store' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rmtnet.store.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
