"""The networks of the papers."""

import torch
from torch import nn
from torch.nn import functional

from rmtnet.caffe import xavier_uniform_
from rmtnet.layers import BlockDiagonalLinear

_ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid}


class LeNet5(nn.Module):
    """LeNet-5 of Caffe's MNIST example, its inner product layers with ``b1`` and ``b2`` blocks: (b1, b2)-BD4.

    conv1 20@5x5, max-pool 2, conv2 50@5x5, max-pool 2, ip1 800 -> 500 with an activation, ip2 500 -> 10; no activation
    after the convolutions.  Weights start with Caffe's Xavier law, biases at 0.  Under one torch seed sisters start
    with the same weights in all layers but the one whose number of blocks differs.

    Parameters
    ----------
    b1, b2 : number of blocks of ip1 (divides 100) and ip2 (divides 10); 1 is dense
    activation : of ip1, "relu" or "sigmoid"

    Raises
    ------
    ValueError
        If a number of blocks does not divide the layer, or the activation is another.
    """

    def __init__(self, b1: int = 1, b2: int = 1, activation: str = "relu"):
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}")
        self.activation = activation
        # One a layer, and before any is made: sisters under one seed share all layers but the one in blocks.
        seeds = torch.randint(2**62, (4,)).tolist()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.ip1 = inner_product(800, 500, b1)
        self.ip2 = inner_product(500, 10, b2)
        fan_ins = {self.conv1: 25, self.conv2: 20 * 25, self.ip1: 800 // b1, self.ip2: 500 // b2}
        for (layer, fan_in), seed in zip(fan_ins.items(), seeds, strict=True):
            xavier_uniform_(layer.weight, fan_in, torch.Generator().manual_seed(seed))
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(batch, 1, 28, 28) pixels in [0, 1] -> (batch, 10) scores."""
        features = functional.max_pool2d(self.conv1(images), 2)
        features = functional.max_pool2d(self.conv2(features), 2).flatten(1)
        scores: torch.Tensor = self.ip2(_ACTIVATIONS[self.activation](self.ip1(features)))
        return scores


def inner_product(in_features: int, out_features: int, blocks: int) -> nn.Linear | BlockDiagonalLinear:
    """A dense layer for one block, else a block diagonal one."""
    if blocks == 1:
        return nn.Linear(in_features, out_features)
    return BlockDiagonalLinear(in_features, out_features, blocks)
