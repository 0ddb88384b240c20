"""The part of a weight that a penalty and a threshold act on: all of it, or what is off its diagonal blocks."""

import numpy as np
import torch
from torch import nn

from rmtnet.pruning import kernels
from rmtnet.pruning.penalties import diagonal_blocks
from rmtnet.pruning.units import clear


class Region:
    """Penalty and threshold of one layer, in few passes over its weight.

    The value of the penalty is found with the threshold, for the step that comes.

    Parameters
    ----------
    module : linear or convolutional, with the buffer ``weight_mask``
    norm : 1, the sum of magnitudes, or 2, half the sum of squares
    blocks : number of diagonal blocks that are spared; 1 spares nothing
    """

    def __init__(self, module: nn.Module, norm: int = 1, blocks: int = 1):
        self._module, self._norm, self._blocks = module, norm, blocks
        self._value = torch.zeros(())
        self._signs: torch.Tensor | None = None
        self._seen = self._signed = self._added = (0, -1)

    @torch.no_grad()
    def value(self) -> torch.Tensor:
        """The norm: 0-dim."""
        if self._seen != self._version:
            self._keep(self._norm_of(self._weight))
        return self._value

    @torch.no_grad()
    def add_gradient(self, alpha: float) -> None:
        """Add its gradient to the weight's; once for the same numbers, for torch calls some hooks twice."""
        if self._added == self._version:
            return
        self._added, weight = self._version, self._weight
        if not weight.requires_grad:
            return
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        loop = self._loop(kernels.add_signs)
        if loop and kernels.can_run(weight.grad):
            loop(_matrix(weight.grad), _matrix(weight), np.float32(alpha), *self._sides)
        else:
            weight.grad.add_(self._slope(weight), alpha=alpha)

    @torch.no_grad()
    def shrink(self, threshold: float) -> None:
        """Set to 0, for good, what is at most ``threshold``, and again what was before."""
        weight, mask = self._weight, self._mask
        if (loop := self._loop(kernels.shrink)) and mask.is_contiguous():
            alive = _matrix(mask.view(torch.uint8))
            norm = loop(_matrix(weight), alive, np.float32(threshold), *self._sides)
            torch.autograd.graph.increment_version(weight)
            self._keep(torch.tensor(norm, dtype=weight.dtype))
            return
        clear(weight, mask)
        spared = [self._spared(tensor) for tensor in (weight, mask)]
        kept = [view.clone() for view in spared]
        torch.hardshrink(weight, threshold, out=weight)
        mask.copy_(weight)
        for view, numbers in zip(spared, kept, strict=True):
            view.copy_(numbers)
        self._keep(self._norm_of(weight))

    def count_above(self, threshold: float) -> int:
        """Number of weights alive whose magnitude is above a threshold."""
        alive = self._weight.detach() * self._mask
        return int(torch.count_nonzero(torch.hardshrink(alive, threshold)))

    @property
    def _weight(self) -> nn.Parameter:
        return self._module.weight  # type: ignore[return-value]

    @property
    def _mask(self) -> torch.Tensor:
        return self._module.get_buffer("weight_mask")

    @property
    def _version(self) -> tuple[int, int]:
        """It changes with the numbers."""
        return self._weight.data_ptr(), self._weight._version

    @property
    def _sides(self) -> tuple[int, int]:
        """Rows and columns of the spared blocks."""
        rows, columns = self._weight.flatten(1).shape
        return (rows, 0) if self._blocks == 1 else (rows // self._blocks, columns // self._blocks)

    def _loop(self, loop: kernels.Loop) -> kernels.Loop | None:
        return kernels.compiled(loop) if self._norm == 1 and kernels.can_run(self._weight) else None

    def _keep(self, value: torch.Tensor) -> None:
        self._value, self._seen = value, self._version

    def _norm_of(self, weight: torch.Tensor) -> torch.Tensor:
        return _inner(weight, self._slope(weight)) / self._norm

    def _slope(self, weight: torch.Tensor) -> torch.Tensor:
        """Gradient of the norm; the memory of the signs is used again, and they are taken once for the same numbers."""
        if self._norm == 2:
            return weight
        if self._signs is None or self._signed != self._version:
            fits = self._signs is not None and (self._signs.device, self._signs.dtype) == (weight.device, weight.dtype)
            self._signs = torch.sgn(weight, out=self._signs if fits else None)
            self._spared(self._signs).zero_()
            self._signed = self._version
        return self._signs

    def _spared(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[:0] if self._blocks == 1 else diagonal_blocks(tensor, self._blocks)


def _matrix(tensor: torch.Tensor) -> kernels.Matrix:
    return tensor.detach().flatten(1).numpy()


def _inner(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    if one.dtype in (torch.float32, torch.float64):
        return torch.dot(one.reshape(-1), other.reshape(-1))
    return (one.float() * other).sum()  # sums of 16-bit numbers overflow
