"""Layers whose weights are dense blocks, as torch modules."""

from rmtnet.layers.block_diagonal import BlockDiagonalLinear

__all__ = ["BlockDiagonalLinear"]
