"""A block-sparse layer of 2048 x 2048 at batch 100, beside the dense layer and torch's BSR product.

One thread: ratios over the dense layer are read against 1 / density, what a perfect product would give.
"""

import warnings

import torch
from torch import nn

from rmtnet.layers.block_sparse import BlockSparseLinear

SIDE, BATCH = 2048, 100


def random_mask(blocks: int, density: float) -> torch.Tensor:
    """As many blocks in each row; where in the row is random."""
    kept = max(1, round(density * blocks))
    order = torch.rand(blocks, blocks, generator=torch.Generator().manual_seed(0)).argsort(1)
    return order < kept


class BlockSparse:
    param_names = ("block", "density")
    params = ([16, 32, 64, 128], [0.05, 0.25, 0.5])

    def setup(self, block: int, density: float) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.layer = BlockSparseLinear(SIDE, SIDE, random_mask(SIDE // block, density))
        self.dense = nn.Linear(SIDE, SIDE)
        self.inputs = torch.randn(BATCH, SIDE, requires_grad=True)
        self.upstream = torch.randn(BATCH, SIDE)
        self.columns = self.inputs.detach().T.contiguous()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BSR is in beta state
            self.bsr = self.layer.to_dense().weight.detach().to_sparse_bsr((block, block))

    def time_forward(self, block: int, density: float) -> None:
        with torch.no_grad():
            self.layer(self.inputs)

    def time_forward_dense(self, block: int, density: float) -> None:
        with torch.no_grad():
            self.dense(self.inputs)

    def time_forward_bsr(self, block: int, density: float) -> None:
        torch.mm(self.bsr, self.columns)

    def time_step(self, block: int, density: float) -> None:
        self.layer(self.inputs).backward(self.upstream)

    def time_step_dense(self, block: int, density: float) -> None:
        self.dense(self.inputs).backward(self.upstream)
