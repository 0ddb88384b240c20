"""Block diagonal layers: forward, and forward with both gradients, batch- and feature-major."""

import torch

from rmtnet.layers import BlockDiagonalLinear
from rmtnet.layers.functional import feature_major


class BlockDiagonal:
    param_names = ("size", "blocks", "order")
    params = ([256, 2048], [1, 8, 32, 128, 512], ["batch-major", "feature-major"])

    def setup(self, size: int, blocks: int, order: str) -> None:
        if blocks > size:
            raise NotImplementedError
        torch.set_num_threads(1)
        self.layer = BlockDiagonalLinear(size, size, blocks)
        inputs, grad = torch.randn(100, size), torch.randn(100, size)
        if order == "feature-major":
            inputs, grad = feature_major(inputs), feature_major(grad)
        self.inputs, self.grad = inputs.requires_grad_(), grad

    def time_forward(self, size: int, blocks: int, order: str) -> None:
        with torch.no_grad():
            self.layer(self.inputs)

    def time_forward_and_backward(self, size: int, blocks: int, order: str) -> None:
        self.layer.zero_grad()
        self.inputs.grad = None
        self.layer(self.inputs).backward(self.grad)


class UnequalBlocks(BlockDiagonal):
    """Eight blocks, of which the largest is three times the smallest."""

    params = ([2048], [8], ["batch-major", "feature-major"])

    def setup(self, size: int, blocks: int, order: str) -> None:
        super().setup(size, blocks, order)
        sides = [128, 128, 192, 256, 256, 320, 384, 384]
        self.layer = BlockDiagonalLinear(size, size, [(side, side) for side in sides])
