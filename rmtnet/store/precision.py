"""Storing weights in fewer bits than they have."""

import re
from typing import Any

import numpy as np
from numcodecs.bitround import BitRound
from numpy.typing import NDArray

_BFLOAT16_BITS = 7


def keepbits(precision: str) -> int | None:
    """Bits of the mantissa that "bfloat16" or "bitround:<bits>" keep of a float32; None for "float16".

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if precision == "float16":
        return None
    if precision == "bfloat16":
        return _BFLOAT16_BITS
    matched = re.fullmatch(r"bitround:(\d+)", precision)
    if not matched or not 1 <= int(matched[1]) <= 22:
        raise ValueError(
            f"precision must be 'float16', 'bfloat16' or 'bitround:<bits>' with 1 to 22 bits, got {precision!r}"
        )
    return int(matched[1])


def stored_dtype(dtype: np.dtype[Any], precision: str | None) -> np.dtype[Any]:
    """The type in which values of ``dtype`` are stored."""
    return np.dtype(np.float16) if precision == "float16" else dtype


def rounded(values: NDArray[Any], precision: str | None) -> NDArray[Any]:
    """The values as they are stored, rounded to nearest."""
    if precision is None:
        return values
    bits = keepbits(precision)
    if bits is None:
        with np.errstate(over="ignore"):  # beyond 65504 a float16 is infinite
            return values.astype(np.float16)
    exact = np.array(values, dtype=values.dtype, order="C")  # a copy: it is rounded in place
    kept: NDArray[Any] = BitRound(bits).encode(exact).view(values.dtype).reshape(values.shape)
    return kept
