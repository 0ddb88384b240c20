"""Stacks of matrices, checked, and their chunks in float64."""

import math
import sys
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Larger chunks leave the caches of a CPU.
CHUNK = 2**22


def checked(weight: ArrayLike, core: Literal[2, 3]) -> Any:
    """Array or tensor (..., out, in), or with blocks for core = 3; its entries are checked chunk by chunk."""
    torch = sys.modules.get("torch")
    tensor = torch is not None and isinstance(weight, torch.Tensor)
    stack: Any = weight.detach() if tensor else np.asarray(weight)  # type: ignore[union-attr]
    if stack.is_complex() if tensor else stack.dtype.kind not in "fiub":
        raise TypeError(f"weight must be real, got dtype {stack.dtype}")
    shape = tuple(stack.shape)
    if core == 3 and len(shape) < 3:
        raise ValueError(f"weight must be (..., block, out, in), got shape {shape}: a matrix is weight[None]")
    if len(shape) < 2 or 0 in shape[-core:]:
        raise ValueError(f"weight must be a stack of matrices (..., out, in), none empty; got shape {shape}")
    return stack


def chunk(stack: Any, core: int, span: slice, device: Any = None) -> tuple[Any, Floats]:
    """Matrices (or groups of blocks, core = 3) of a span, in float64, times a power of two each, and these powers."""
    lead = tuple(stack.shape[:-core])
    # Not reshaped: a stack that is not contiguous would be copied whole.
    index = np.unravel_index(np.arange(span.start, span.stop), lead) if len(lead) > 1 else span
    part = _float64((stack if lead else stack[None])[index], device)
    # The squares of float32 never leave the range of float64.
    if stack.dtype.itemsize <= 4 and math.isfinite(part.max()) and math.isfinite(part.min()):
        return part, np.ones(len(part))
    return part, _rescale(part, span.start, lead)


def spans(count: int, at_once: int) -> list[slice]:
    at_once = max(1, at_once)
    return [slice(first, min(first + at_once, count)) for first in range(0, count, at_once)]


def module(array: Any) -> ModuleType:
    return np if isinstance(array, np.ndarray) else sys.modules["torch"]


def numpy_of(array: Any) -> Floats:
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def _float64(part: Any, device: Any) -> Any:
    """A copy: an array, or a tensor on the device if there is one."""
    if not isinstance(part, np.ndarray):
        part = part.to(device or "cpu", module(part).float64, copy=True)
        return part if device is not None else part.numpy()
    # A long double may exceed float64: infinite then, and told as such.
    with np.errstate(over="ignore"):
        part = part.astype(np.float64)
    if device is None:
        return part
    import torch

    return torch.from_numpy(part).to(device)


def _rescale(part: Any, first: int, lead: tuple[int, ...]) -> Floats:
    """Bring extreme matrices, in place, to where squares neither overflow nor vanish: by which powers of two."""
    xp, axes = module(part), tuple(range(1, part.ndim))
    peak = numpy_of(xp.maximum(xp.amax(part, axis=axes), -xp.amin(part, axis=axes)))
    if not np.isfinite(peak).all():
        index = np.unravel_index(first + np.flatnonzero(~np.isfinite(peak))[0], lead or (1,))
        name = f"weight[{', '.join(map(str, index))}]" if lead else "weight"
        raise ValueError(f"{name} holds NaN or infinity: did training diverge?")
    exponent = np.frexp(peak)[1]
    scale = np.where(np.abs(exponent) < 200, 1.0, np.ldexp(1.0, np.clip(-exponent, -1000, 1000)))
    if (scale != 1).any():
        part *= xp.asarray(scale, device=part.device).reshape(-1, *(1 for _ in axes))
    return scale
