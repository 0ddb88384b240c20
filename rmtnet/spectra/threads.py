"""Threads of Python instead of threads of OpenBLAS, which wait for each other at full speed."""

import contextlib
import functools
import sys
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def one_blas_thread() -> Iterator[int]:
    """Within, OpenBLAS works with one thread; gives the number that it had.

    numpy and scipy have one each: import ``scipy.linalg`` before, where it is to be used within.  Only the main thread
    can set it: elsewhere all stays as it is, and the number is 1.
    """
    is_main = threading.current_thread() is threading.main_thread()
    libraries = _openblas("scipy.linalg" in sys.modules) if is_main else None
    if libraries is None:
        yield 1
        return
    threads = max((library.num_threads for library in libraries.lib_controllers), default=1)
    with libraries.limit(limits=1):
        yield threads


@functools.cache
def _openblas(with_scipy: bool) -> Any:
    """Those that are loaded, which the next call need not look for again."""
    try:
        from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        return None
    return ThreadpoolController().select(internal_api="openblas")
