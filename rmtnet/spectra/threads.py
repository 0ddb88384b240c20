"""Threads of Python instead of threads of OpenBLAS, which wait for each other at full speed."""

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def one_blas_thread() -> Iterator[int]:
    """Within, OpenBLAS works with one thread; gives the number that it had.

    Only the main thread can set it: elsewhere all stays as it is, and the number is 1.
    """
    libraries = _openblas() if threading.current_thread() is threading.main_thread() else None
    if libraries is None:
        yield 1
        return
    threads = max((library.num_threads for library in libraries.lib_controllers), default=1)
    with libraries.limit(limits=1):
        yield threads


@functools.cache
def _openblas() -> Any:
    try:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        return None
    return ThreadpoolController().select(internal_api="openblas")
