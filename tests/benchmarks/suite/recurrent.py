"""The block-sparse LSTM beside torch's: both ways to run it, by the share of stored blocks."""

import torch
from torch import nn

from rmtnet.layers.recurrent import BlockSparseLSTM, passes

SIZES = {"awd 0": (400, 1150, 50), "awd 1": (1150, 1150, 50), "middle": (512, 512, 32), "small": (128, 128, 16)}
"""Inputs, hidden, side of a block."""


class LSTM:
    """A sequence of 35 steps: forward alone, and with the gradient."""

    param_names = ("size", "batch", "way", "density")
    params = (list(SIZES), [1, 20, 80], ["torch", "fused", "blocks"], [0.1, 0.2, 0.3, 0.5])
    timeout = 120

    def setup(self, size: str, batch: int, way: str, density: float) -> None:
        if way == "torch" and density > 0.1:
            raise NotImplementedError("the dense one is timed once")
        torch.manual_seed(0)
        torch.set_num_threads(1)
        inputs, hidden, block = SIZES[size]
        self.lstm: nn.Module
        if way == "torch":
            self.lstm = nn.LSTM(inputs, hidden)
        else:
            mask = {
                "weight_ih_l0": torch.rand(4 * hidden // block, inputs // block) < density,
                "weight_hh_l0": torch.rand(4 * hidden // block, hidden // block) < density,
            }
            self.lstm = BlockSparseLSTM(inputs, hidden, block=block, mask=mask)
        self.chosen = passes.DENSE_ABOVE, passes.SPARSE_FROM
        passes.DENSE_ABOVE, passes.SPARSE_FROM = (1.0, 1) if way == "blocks" else (-1.0, 1)
        self.words = torch.randn(35, batch, inputs)

    def teardown(self, *_: object) -> None:
        if hasattr(self, "chosen"):
            passes.DENSE_ABOVE, passes.SPARSE_FROM = self.chosen

    def time_forward(self, *_: object) -> None:
        with torch.no_grad():
            self.lstm(self.words)

    def time_forward_and_backward(self, *_: object) -> None:
        self.lstm(self.words)[0].sum().backward()

    def peakmem_forward_and_backward(self, *_: object) -> None:
        self.lstm(self.words)[0].sum().backward()
