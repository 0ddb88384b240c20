"""What a step of pruning costs beside the dense layer's step, and what packing gains."""

from typing import Any

import torch
from torch import nn

from rmtnet.networks import LeNet5
from rmtnet.pruning import BlockDiagonalPruning, block_permutation, pack

SIZES = {"ip1": (500, 800, 64, 100), "2048": (2048, 2048, 100, 32)}
"""Outputs, inputs, batch and blocks."""


class Step:
    """Penalty and mask of IP-BDIP, T(Prune), beside forward and backward, T(FC)."""

    param_names = ("size",)
    params = (list(SIZES),)

    def setup(self, size: str) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        out, width, batch, blocks = SIZES[size]
        self.model = nn.Sequential(nn.Linear(width, out))
        # The rate is 0: the same weights at every call.
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.0)
        recipe = BlockDiagonalPruning({"0": blocks}, dense=0, pruning=10**9, alpha=1e-4, threshold=1e-4)
        self.pruner = recipe(self.model, self.optimizer)
        self.inputs = torch.randn(batch, width, requires_grad=True)
        self.slopes = torch.randn(batch, out)
        self.dense: Any = nn.Sequential(nn.Linear(width, out))
        self.plain = torch.optim.SGD(self.dense.parameters(), lr=0.0)

    def time_dense(self, size: str) -> None:
        self.plain.zero_grad()
        self.dense(self.inputs).backward(self.slopes)
        self.plain.step()

    def time_pruned(self, size: str) -> None:
        self.optimizer.zero_grad()
        self.pruner.penalty()
        self.model(self.inputs).backward(self.slopes)
        self.optimizer.step()
        self.pruner.step(1)


class Packed:
    """The two inner product layers of LeNet-5, dense or packed to (100, 10) blocks."""

    param_names = ("form", "batch")
    params = (["dense", "packed"], [1, 64])

    def setup(self, form: str, batch: int) -> None:
        torch.set_num_threads(1)
        self.model = LeNet5()
        self.inputs = torch.randn(batch, 800)
        if form == "packed":
            for layer, blocks in ((self.model.ip1, 100), (self.model.ip2, 10)):
                ones = [torch.ones(layer.out_features // blocks, layer.in_features // blocks)] * blocks
                layer.register_buffer("weight_mask", torch.block_diag(*ones).bool())
            pack(self.model)

    @torch.no_grad()
    def time_forward(self, form: str, batch: int) -> None:
        self.model.ip2(torch.relu(self.model.ip1(self.inputs)))


class Permutation:
    """The order of 500 x 800 weights that is closest to blocks."""

    param_names = ("blocks",)
    params = ([10, 100],)
    timeout = 300

    def setup(self, blocks: int) -> None:
        self.weight = torch.randn(500, 800, generator=torch.Generator().manual_seed(0))

    def time_block_permutation(self, blocks: int) -> None:
        block_permutation(self.weight, blocks)
