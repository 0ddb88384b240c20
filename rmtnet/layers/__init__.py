"""Layers whose weights are dense blocks, as torch modules."""

from rmtnet.layers.block_diagonal import BlockDiagonalLinear
from rmtnet.layers.block_sparse import BlockSparseLinear
from rmtnet.layers.conv import BlockSparseConv2d, block_diagonal_conv
from rmtnet.layers.dynamic import DynamicBlockSparseLinear
from rmtnet.layers.functional import feature_major
from rmtnet.layers.recurrent import QRNN, BlockSparseLSTM, DynamicBlockSparseLSTM
from rmtnet.layers.swapping import swap_linear

__all__ = [
    "QRNN",
    "BlockDiagonalLinear",
    "BlockSparseConv2d",
    "BlockSparseLSTM",
    "BlockSparseLinear",
    "DynamicBlockSparseLSTM",
    "DynamicBlockSparseLinear",
    "block_diagonal_conv",
    "feature_major",
    "swap_linear",
]
