"""Run stores: the only package that knows zarr.

A run is one zarr v3 folder with a flat group for each kind of thing recorded (``weights``, ``metrics``), readable by
plain xarray.  :func:`open_run` gives it labelled; :class:`RunWriter` is how a recorder fills it.
"""

from rmtnet.store.lock import RunLocked
from rmtnet.store.reading import Run, load, open_run
from rmtnet.store.schema import FORMS, SCHEMA_VERSION, MatrixSpec, check_unique, natural_order
from rmtnet.store.writing import RunWriter

__all__ = [
    "FORMS",
    "SCHEMA_VERSION",
    "MatrixSpec",
    "Run",
    "RunLocked",
    "RunWriter",
    "check_unique",
    "load",
    "natural_order",
    "open_run",
]
